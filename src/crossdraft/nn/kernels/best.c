/* The best of many logits: what a level of drafting wants to know of a vocabulary, read once from the caches. */
#include <math.h>

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
void crossdraft_best(const bf16 *x, long rows, long step, long n, long k, int64_t *places, float *logs, int threads)
{
	(void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows > 1)
	for (long r = 0; r < rows; r++)
		best_of_row(x + r * step, n, k, places + r * k, logs + r * k);
}

/* a level of a tree: the k best of each row as above; values: their logs, each row's with its `worth` added; of all rows * k
 * values the k best by falling value, of equal ones the first, and numbers that are none last: their places (order), rows,
 * words and values (worths), and their paths: those of their rows (of `depth` numbers), each with another number behind it,
 * which count from `first` on */
void crossdraft_grow(const bf16 *x, long rows, long step, long n, long k, const float *worth, const int32_t *paths, long depth,
                     long first, int64_t *words, float *values, int64_t *order, int64_t *above, int64_t *word, float *worths,
                     int32_t *longer, int threads)
{
	long taken[rows];
	crossdraft_best(x, rows, step, n, k, words, values, threads);
	for (long r = 0; r < rows; r++) {
		taken[r] = 0;
		for (long i = 0; i < k; i++)
			values[r * k + i] += worth[r];
	}
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
		order[i] = place;
		above[i] = from;
		word[i] = words[place];
		worths[i] = values[place];
		for (long at = 0; at < depth; at++)
			longer[i * (depth + 1) + at] = paths[from * depth + at];
		longer[i * (depth + 1) + depth] = first + i;
	}
}
