/* LANES floats at a time: as many as a register of AVX2 holds where that is all there is, else sixteen, of which the
 * compiler makes what there is. */
#include <stdint.h>

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
#define LANES 8
#else
#define LANES 16
#endif

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t counts __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint16_t bf16;

/* x in every place */
static inline lanes every(float x)
{
	return x - (lanes){0};
}

static inline lanes wide(const bf16 *from)
{
	return (lanes)(__builtin_convertvector(*(const halves *)from, bits) << 16);
}

/* to the nearest, ties to even */
static inline void narrow(lanes value, bf16 *to)
{
	bits x = (bits)value;
	x = (x + 0x7fff + ((x >> 16) & 1)) >> 16;
	*(halves *)to = __builtin_convertvector(x, halves);
}

/* sum + x y; said outright, since whether the compiler joins the two may differ from place to place */
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>

static inline lanes plus(lanes sum, lanes x, lanes y)
{
#if LANES == 16
	return (lanes)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#else
	return (lanes)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#endif
}
#else
static inline lanes plus(lanes sum, lanes x, lanes y)
{
	return sum + x * y;
}
#endif

/* e^x for x <= 0 (Cephes' polynomial); far below it is 0 */
static inline lanes power(lanes x)
{
	const lanes zero = {0};
	counts tiny = x < -87.0f;
	x = (lanes)((tiny & (counts)(zero - 87.0f)) | (~tiny & (counts)x));
	lanes whole = x * 1.44269504088896341f - 0.5f;
	counts n = __builtin_convertvector(whole, counts); /* towards 0: rounds, as x <= 0 */
	lanes f = __builtin_convertvector(n, lanes);
	x = x - f * 0.693359375f;
	x = x + f * 2.12194440e-4f;
	lanes y = zero + 1.9875691500e-4f;
	y = y * x + 1.3981999507e-3f;
	y = y * x + 8.3334519073e-3f;
	y = y * x + 4.1665795894e-2f;
	y = y * x + 1.6666665459e-1f;
	y = y * x + 5.0000001201e-1f;
	y = y * x * x + x + 1.0f;
	counts scale = (n + 127) << 23;
	lanes out = y * (lanes)scale;
	return (lanes)(~tiny & (counts)out);
}
