// The operators of lvgan.ops as CUDA kernels, against torch's stable ABI (torch 2.10 and later): the
// bodies of tile.h, resample.h and bias_act_math.h, which the tests of the CPU prove (see portable_ops.h).
//
// Built with (torch: the folder of the Python package; it need not be a CUDA build):
//   nvcc -O3 -std=c++17 -shared -Xcompiler -fPIC -cudart static -DUSE_CUDA
//        -DTORCH_TARGET_VERSION=0x020a000000000000
//        -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90
//        -gencode arch=compute_90,code=compute_90 -Itorch/include cuda.cu -o lvgan_cuda.so
// The symbols of torch are found when a CUDA build of torch loads the library.

#include <algorithm>

#include <cuda_runtime.h>

#include "stable.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace lvgan {

constexpr bool kTilesInDouble = false;
constexpr int kThreads = 128;

template <class Body>
__global__ void __launch_bounds__(2 * kThreads) each_kernel(const Body body, int64_t count) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) body(i);
}

template <class Body>
__global__ void __launch_bounds__(kThreads) tile_kernel(const Body body, int64_t count) {
  __shared__ typename Body::Memory memory;
  const Share share{int(threadIdx.x), kThreads};
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) body(share, i, memory);
}

// The stream that torch uses on the device of `on`, which is made the current one meanwhile.
inline cudaStream_t current_stream(const Tensor& on) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

constexpr int64_t kMostBlocks = 1 << 30;

template <class Body>
void run_each(const Tensor& on, int64_t count, const Body& body) {
  if (count == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  const int64_t blocks = std::min<int64_t>((count + 2 * kThreads - 1) / (2 * kThreads), kMostBlocks);
  each_kernel<Body><<<unsigned(blocks), 2 * kThreads, 0, current_stream(on)>>>(body, count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class Body>
void run_tiles(const Tensor& on, int64_t count, const Body& body) {
  if (count == 0) return;
  static_assert(sizeof(typename Body::Memory) <= 48 * 1024, "more shared memory than every chip has");
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  const int64_t blocks = std::min<int64_t>(count, kMostBlocks);
  tile_kernel<Body><<<unsigned(blocks), kThreads, 0, current_stream(on)>>>(body, count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace lvgan

#include "portable_ops.h"

STABLE_TORCH_LIBRARY_IMPL(lvgan, CUDA, m) {
  m.impl("upfirdn2d", TORCH_BOX(&lvgan::portable::upfirdn2d));
  m.impl("filtered_lrelu", TORCH_BOX(&lvgan::portable::filtered_lrelu));
  m.impl("filtered_mask", TORCH_BOX(&lvgan::portable::filtered_mask));
  m.impl("bias_act", TORCH_BOX(&lvgan::portable::bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&lvgan::portable::bias_act_backward));
}
