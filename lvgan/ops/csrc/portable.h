// What CPU and CUDA need to share a body: marks for functions, the share of a thread, numbers in memory.
#pragma once

#include <cstdint>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__CUDACC__)
#define LVGAN_BOTH __host__ __device__ __forceinline__
#define LVGAN_LOOP _Pragma("unroll")
#else
#define LVGAN_BOTH inline
#define LVGAN_LOOP
#endif

namespace lvgan {

// What a thread does of a phase: items begin, begin + step, ...
struct Share {
  int begin, step;
  LVGAN_BOTH void sync() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
};

enum class Kind : int { f32, f16, bf16, f64 };  // of the elements in memory
template <class A>
LVGAN_BOTH A read_number(const void* p, int64_t i, Kind kind) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  if (kind == Kind::f32) return static_cast<A>(static_cast<const float*>(p)[i]);
  if (kind == Kind::f16) return static_cast<A>(static_cast<float>(static_cast<const Half*>(p)[i]));
  if (kind == Kind::bf16) return static_cast<A>(static_cast<float>(static_cast<const BFloat16*>(p)[i]));
  return static_cast<A>(static_cast<const double*>(p)[i]);
}

template <class A>
LVGAN_BOTH void write_number(void* p, int64_t i, A v, Kind kind) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  if (kind == Kind::f32) static_cast<float*>(p)[i] = static_cast<float>(v);
  else if (kind == Kind::f16) static_cast<Half*>(p)[i] = Half(static_cast<float>(v));
  else if (kind == Kind::bf16) static_cast<BFloat16*>(p)[i] = BFloat16(static_cast<float>(v));
  else static_cast<double*>(p)[i] = static_cast<double>(v);
}

}  // namespace lvgan
