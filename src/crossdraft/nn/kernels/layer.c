/* What stands between a layer's products and its attention: norm, rotation, gate. bfloat16 in and out, float32 inside; each
 * row by itself, in one order, so its bits do not depend on the other rows. Sizes are multiples of 16.
 */
#include <math.h>

#include "lanes.h"

typedef uint16_t bf16;
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static lanes wide(const bf16 *from)
{
	return (lanes)(__builtin_convertvector(*(const halves *)from, bits) << 16);
}

/* to the nearest, ties to even */
static void narrow(lanes value, bf16 *to)
{
	bits x = (bits)value;
	x = (x + 0x7fff + ((x >> 16) & 1)) >> 16;
	*(halves *)to = __builtin_convertvector(x, halves);
}

/* y = x w / sqrt(sum x^2 + floor^2); w carries sqrt(dim) */
void crossdraft_norm(const bf16 *x, const float *w, bf16 *y, long rows, long dim, float floor)
{
	for (long r = 0; r < rows; r++, x += dim, y += dim) {
		lanes squares = {0};
		for (long c = 0; c < dim; c += LANES) {
			lanes value = wide(x + c);
			squares += value * value;
		}
		float sum = floor * floor;
		for (int i = 0; i < LANES; i++)
			sum += squares[i];
		float length = sqrtf(sum);
		for (long c = 0; c < dim; c += LANES)
			narrow(wide(x + c) * *(const lanes *)(w + c) / length, y + c);
	}
}

/* y = silu(gate) up, of rows [gate | up] of 2 dim */
void crossdraft_gate(const bf16 *both, bf16 *y, long rows, long dim)
{
	for (long r = 0; r < rows; r++, both += 2 * dim, y += dim)
		for (long c = 0; c < dim; c += LANES) {
			lanes gate = wide(both + c);
			counts below = gate < 0.0f;
			lanes small = power((lanes)((below & (counts)gate) | (~below & (counts)-gate)));
			lanes one = (lanes){0} + 1.0f;
			lanes share = (lanes)((below & (counts)small) | (~below & (counts)one)) / (1.0f + small);
			narrow(gate * share * wide(both + dim + c), y + c);
		}
}

#if LANES == 8
static const counts EVEN = {0, 0, 2, 2, 4, 4, 6, 6};
static const counts ODD = {1, 1, 3, 3, 5, 5, 7, 7};
static const counts SWAPPED = {1, 0, 3, 2, 5, 4, 7, 6};
static const lanes SIGN = {-1, 1, -1, 1, -1, 1, -1, 1};
#else
static const counts EVEN = {0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14};
static const counts ODD = {1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15};
static const counts SWAPPED = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
static const lanes SIGN = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
#endif

/* rows [queries | keys | values] of `turned` + `plain` numbers. The first `turned` are pairs and turn by the row's angle
 * (cosine, sine for each pair of a head of dim; `turn_step` floats from row to row), the first `queries` of them are scaled.
 * q (rows, queries), k (rows, turned - queries), v (rows, plain), float32. */
void crossdraft_split(const bf16 *x, const float *turns, float *q, float *k, float *v, long rows, long queries, long turned,
                      long plain, long dim, long turn_step, float scale)
{
	for (long r = 0; r < rows; r++, x += turned + plain, turns += turn_step) {
		for (long at = 0; at < turned; at += dim) {
			int is_query = at < queries;
			float *to = is_query ? q + r * queries + at : k + r * (turned - queries) + at - queries;
			float by = is_query ? scale : 1.0f;
			for (long c = 0; c < dim; c += LANES) {
				lanes value = wide(x + at + c), turn = *(const lanes *)(turns + c);
				lanes cosine = __builtin_shuffle(turn, EVEN), sine = __builtin_shuffle(turn, ODD);
				lanes other = __builtin_shuffle(value, SWAPPED);
				*(lanes *)(to + c) = (value * cosine + other * (sine * SIGN)) * by;
			}
		}
		for (long c = 0; c < plain; c += LANES)
			*(lanes *)(v + r * plain + c) = wide(x + turned + c);
	}
}
