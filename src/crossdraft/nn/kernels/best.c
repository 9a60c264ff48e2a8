/* The best of many logits: what a level of drafting wants to know of a vocabulary, read once from the caches. */
#include <math.h>
#include <string.h>

#include "lanes.h"

#define BLOCK 64 /* numbers of which the largest is known before they are looked at one by one */
#define MOST 64

static lanes larger(lanes a, lanes b)
{
	counts is = a > b;
	return (lanes)((is & (counts)a) | (~is & (counts)b));
}

static float largest(lanes of)
{
	for (int apart = LANES / 2; apart; apart /= 2) {
		counts other;
		for (int i = 0; i < LANES; i++)
			other[i] = i ^ apart;
		of = larger(of, __builtin_shuffle(of, other));
	}
	return of[0];
}

static void best_of_row(const bf16 *x, long n, long k, int64_t *places, float *logs)
{
	bf16 rest[BLOCK];
	float values[MOST], top = -INFINITY;
	lanes sum = {0};
	long have = 0;
	/* what is behind the last whole block, filled up with -inf */
	for (long i = 0; i < BLOCK; i++)
		rest[i] = n / BLOCK * BLOCK + i < n ? x[n / BLOCK * BLOCK + i] : 0xff80;
	for (long at = 0; at < n; at += BLOCK) {
		const bf16 *block = at + BLOCK <= n ? x + at : rest;
		lanes most = wide(block);
		for (long c = LANES; c < BLOCK; c += LANES)
			most = larger(wide(block + c), most);
		float here = largest(most);
		if (!(here <= top)) { /* a number that is none spoils all, as in a softmax */
			/* e^(old - new): what was summed up is smaller beside the new one */
			sum = sum * power(every(top == -INFINITY ? -INFINITY : top - here));
			top = here;
		}
		if (top > -INFINITY)
			for (long c = 0; c < BLOCK; c += LANES)
				sum += power(wide(block + c) - top);
		if (have == k && !(here > values[k - 1]))
			continue;
		float wider[BLOCK];
		for (long c = 0; c < BLOCK; c += LANES)
			*(lanes *)(wider + c) = wide(block + c);
		for (long i = 0; i < BLOCK && at + i < n; i++) {
			float value = wider[i];
			if (have == k && !(value > values[k - 1]))
				continue;
			/* behind its equals, which came first */
			long place = have < k ? have++ : k - 1;
			for (; place > 0 && value > values[place - 1]; place--) {
				values[place] = values[place - 1];
				places[place] = places[place - 1];
			}
			values[place] = value;
			places[place] = at + i;
		}
	}
	float total = 0;
	for (int i = 0; i < LANES; i++)
		total += sum[i];
	total = logf(total) + top;
	for (long i = 0; i < k; i++)
		logs[i] = values[i] - total;
}

/* of each of `rows` rows of n numbers, `step` apart, the places of its k best, by falling value and of equal ones the first,
 * and their logarithms after a softmax. k is at most n and 64. */
static void best_of_rows(const bf16 *x, long rows, long step, long n, long k, int64_t *places, float *logs, int threads)
{
	(void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows > 1)
	for (long r = 0; r < rows; r++)
		best_of_row(x + r * step, n, k, places + r * k, logs + r * k);
}

/* a tree that is grown level by level. ids: of the n words that can be drafted; k: children of a row, at most 64. words and
 * values: of all its nodes, by their ids and the logs of the chances of the paths that end there, level by level, of each row the
 * k best by falling value; expanded: the places among these of the nodes that became rows. The k best of the last level, by
 * falling value, of equal ones the first, and numbers that are none last: their places (order), which row each stands under
 * (above), and once more their ids (word) and values (worth); and their paths: down to each, by the order in which nodes are
 * expanded. spare: as large as these */
typedef struct {
	const int64_t *ids;
	int64_t *words, *expanded, *order, *above, *word;
	float *values, *worth;
	int32_t *paths, *spare;
	long n, k;
} tree;

/* the level below rows with logits x: the root, where depth is 0, or so many of the last level's best. made: nodes so far; used:
 * those that became rows, these included */
void crossdraft_grow(const tree *of, const bf16 *x, long rows, long step, long made, long used, long depth, int threads)
{
	long k = of->k, taken[MOST];
	int64_t *words = of->words + made;
	float *values = of->values + made;
	best_of_rows(x, rows, step, of->n, k, words, values, threads);
	for (long r = 0; r < rows; r++) {
		float worth = depth ? of->worth[r] : 0;
		taken[r] = 0;
		for (long i = r * k; i < (r + 1) * k; i++) {
			words[i] = of->ids[words[i]];
			values[i] += worth;
		}
	}
	if (depth)
		memcpy(of->expanded + used - rows, of->order, rows * sizeof(int64_t));
	memcpy(of->spare, of->paths, rows * depth * sizeof(int32_t));
	/* each row's fall already */
	for (long i = 0; i < k; i++) {
		long from = -1;
		for (long r = 0; r < rows; r++) {
			if (taken[r] == k)
				continue;
			float here = values[r * k + taken[r]], so_far = from < 0 ? 0 : values[from * k + taken[from]];
			if (from < 0 || here > so_far || (so_far != so_far && here == here))
				from = r;
		}
		long place = from * k + taken[from]++;
		of->order[i] = made + place;
		of->above[i] = from;
		of->word[i] = words[place];
		of->worth[i] = values[place];
		memcpy(of->paths + i * (depth + 1), of->spare + from * depth, depth * sizeof(int32_t));
		of->paths[i * (depth + 1) + depth] = used + i;
	}
}
