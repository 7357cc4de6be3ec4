// Vectors of the widest kind that the compiler was told to use, and how 16-bit numbers are read
// and written. Everything works, more slowly, without any vector instructions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace lvgan {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#define LVGAN_INLINE inline __attribute__((always_inline))
#define LVGAN_FLAT __attribute__((always_inline))  // for a lambda

template <class A>
struct Vec {
  typedef A type __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / sizeof(A);
};
template <class A>
using V = typename Vec<A>::type;

template <class A>
LVGAN_INLINE V<A> load(const A* p) {
  V<A> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class A>
LVGAN_INLINE void store(A* p, V<A> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// One bit for each lane of v that is above `limit` (not: NaN).
template <class A>
LVGAN_INLINE uint32_t lanes_above(V<A> v, V<A> limit) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(A) == 4) return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_GT_OQ);
  else return _mm512_cmp_pd_mask((__m512d)v, (__m512d)limit, _CMP_GT_OQ);
#elif defined(__AVX__)
  if constexpr (sizeof(A) == 4) return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)limit, _CMP_GT_OQ));
  else return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)v, (__m256d)limit, _CMP_GT_OQ));
#else
  uint32_t bits = 0;
  for (int i = 0; i < Vec<A>::lanes; ++i) bits |= uint32_t(v[i] > limit[i]) << i;
  return bits;
#endif
}

// v in the lanes of `kept`, v * slope in those of `scaled`, 0 in the others.
template <class A>
LVGAN_INLINE V<A> choose(V<A> v, uint32_t kept, uint32_t scaled, V<A> slope) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(A) == 4) {
    const __m512 s = _mm512_mask_mul_ps((__m512)v, scaled, (__m512)v, (__m512)slope);
    return (V<A>)_mm512_maskz_mov_ps(kept | scaled, s);
  } else {
    const __m512d s = _mm512_mask_mul_pd((__m512d)v, scaled, (__m512d)v, (__m512d)slope);
    return (V<A>)_mm512_maskz_mov_pd(kept | scaled, s);
  }
#else
  using I = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  V<I> lane;
  for (int i = 0; i < Vec<A>::lanes; ++i) lane[i] = I(1) << i;
  const V<A> zero = {};
  const V<A> low = ((lane & I(scaled)) != 0) ? v * slope : zero;
  return ((lane & I(kept)) != 0) ? v : low;
#endif
}

// max(-limit, min(limit, v)); a NaN stays one.
template <class A>
LVGAN_INLINE V<A> clamped(V<A> v, V<A> limit) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(A) == 4) {
    return (V<A>)_mm512_max_ps((__m512)(-limit), _mm512_min_ps((__m512)limit, (__m512)v));
  } else {
    return (V<A>)_mm512_max_pd((__m512d)(-limit), _mm512_min_pd((__m512d)limit, (__m512d)v));
  }
#elif defined(__AVX__)
  if constexpr (sizeof(A) == 4) {
    return (V<A>)_mm256_max_ps((__m256)(-limit), _mm256_min_ps((__m256)limit, (__m256)v));
  } else {
    return (V<A>)_mm256_max_pd((__m256d)(-limit), _mm256_min_pd((__m256d)limit, (__m256d)v));
  }
#else
  v = limit < v ? limit : v;
  return -limit > v ? -limit : v;
#endif
}

// Bit i of the lower half of `bits` to bit 2 i, and back.
LVGAN_INLINE uint64_t spread_bits(uint64_t x) {
#if defined(__BMI2__)
  return _pdep_u64(x, 0x5555555555555555ull);
#else
  x = (x | x << 16) & 0x0000FFFF0000FFFFull;
  x = (x | x << 8) & 0x00FF00FF00FF00FFull;
  x = (x | x << 4) & 0x0F0F0F0F0F0F0F0Full;
  x = (x | x << 2) & 0x3333333333333333ull;
  return (x | x << 1) & 0x5555555555555555ull;
#endif
}

LVGAN_INLINE uint32_t gather_bits(uint64_t x) {
#if defined(__BMI2__)
  return uint32_t(_pext_u64(x, 0x5555555555555555ull));
#else
  x &= 0x5555555555555555ull;
  x = (x | x >> 1) & 0x3333333333333333ull;
  x = (x | x >> 2) & 0x0F0F0F0F0F0F0F0Full;
  x = (x | x >> 4) & 0x00FF00FF00FF00FFull;
  x = (x | x >> 8) & 0x0000FFFF0000FFFFull;
  return uint32_t(x | x >> 16);
#endif
}

// False if there is a NaN or infinity.
template <class A>
inline bool finite_row(const A* p, int64_t n) {
  constexpr int lanes = Vec<A>::lanes;
  V<A> sum = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) sum += load(p + i) * A(0);
  A rest = 0;
  for (; i < n; ++i) rest += p[i] * A(0);
  for (int lane = 0; lane < lanes; ++lane) rest += sum[lane];
  return rest == 0;
}

// --- numbers in memory (T) and in arithmetic (A) -------------------------------------------------

// dst[i] = src[i] + shift, for contiguous src.
template <class T, class A>
inline void read_row(A* __restrict dst, const T* __restrict src, int64_t n, A shift) {
  for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<A>(src[i]) + shift;
}

template <>
inline void read_row<BFloat16, float>(float* __restrict dst, const BFloat16* __restrict src, int64_t n, float shift) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = uint32_t(src[i].x) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    dst[i] = value + shift;
  }
}

#if defined(__F16C__) && defined(__AVX__)
template <>
inline void read_row<Half, float>(float* __restrict dst, const Half* __restrict src, int64_t n, float shift) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(src + i)));
    _mm256_storeu_ps(dst + i, _mm256_add_ps(v, _mm256_set1_ps(shift)));
  }
  for (; i < n; ++i) dst[i] = static_cast<float>(src[i]) + shift;
}
#endif

template <class T, class A>
inline void write_row(T* __restrict dst, const A* __restrict src, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<T>(src[i]);
}

template <>
inline void write_row<BFloat16, float>(BFloat16* __restrict dst, const float* __restrict src, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {  // rounds to nearest, ties to even; every NaN to one NaN
    uint32_t bits;
    __builtin_memcpy(&bits, src + i, 4);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    dst[i].x = uint16_t((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
  }
}

#if defined(__F16C__) && defined(__AVX__)
template <>
inline void write_row<Half, float>(Half* __restrict dst, const float* __restrict src, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128((__m128i*)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < n; ++i) dst[i] = static_cast<Half>(src[i]);
}
#endif

// Rows of one element type, read as and written from A.
template <class A>
struct RowAccess {
  using type = A;
  void (*read)(A* dst, const void* src, int64_t n, A shift);
  void (*write)(void* dst, const A* src, int64_t n);
  int64_t size;  // bytes of an element
};

template <class T, class A>
constexpr RowAccess<A> row_access() {
  return {[](A* dst, const void* src, int64_t n, A shift) { read_row<T, A>(dst, static_cast<const T*>(src), n, shift); },
          [](void* dst, const A* src, int64_t n) { write_row<T, A>(static_cast<T*>(dst), src, n); }, sizeof(T)};
}

}  // namespace lvgan
