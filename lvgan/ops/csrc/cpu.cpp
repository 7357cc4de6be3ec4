// The operators of lvgan.ops as CPU kernels, against torch's stable ABI (torch 2.10 and later).
//
// Built with (torch: the folder of the Python package):
//   g++ -std=c++17 -O3 -shared -fPIC -fvisibility=hidden -march=native -fno-math-errno
//       -fno-trapping-math -DTORCH_TARGET_VERSION=0x020a000000000000 -Itorch/include cpu.cpp
//       -o lvgan_cpu.so
// No -ffast-math: NaN and infinity have to pass through. For a library that is to run elsewhere,
// -march=x86-64-v3 (AVX2) or -march=x86-64-v4 (AVX-512) in place of native.

#include <atomic>

#include "bias_act_cpu.h"
#include "color_cpu.h"
#include "filtered_cpu.h"
#include "stable.h"
#include "twofold_cpu.h"
#include "upfirdn2d_cpu.h"

#if defined(LVGAN_TILES)
namespace lvgan {
constexpr bool kTilesInDouble = true;

template <class Body>
void run_each(const Tensor&, int64_t count, const Body& body) {
  torch::stable::parallel_for(0, count, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

template <class Body>
void run_tiles(const Tensor&, int64_t count, const Body& body) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Buffer<typename Body::Memory> memory(1);
    for (int64_t i = begin; i < end; ++i) body(Share{0, 1}, i, *memory.get());
  });
}
}  // namespace lvgan
#include "portable_ops.h"
#endif

namespace lvgan {
namespace {

// f(rows) with the RowAccess<A> of x's elements: code that depends on A alone is compiled twice, not four times.
template <class F>
void by_arithmetic(const Tensor& x, F&& f) {
  if (x.scalar_type() == ScalarType::Double) return f(row_access<double, double>());
  RowAccess<float> rows = row_access<float, float>();
  if (x.scalar_type() == ScalarType::Half) rows = row_access<Half, float>();
  else if (x.scalar_type() == ScalarType::BFloat16) rows = row_access<BFloat16, float>();
  else STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "lvgan: expected float16, bfloat16, float32 or float64");
  f(rows);
}

// Planes whose rows are contiguous: x itself or a copy.
Tensor with_rows(const Tensor& x) {
  return x.numel() == 0 || x.size(3) == 1 || x.stride(3) == 1 ? x : contiguous(x);
}

// The taps of f along one axis, as a correlation.
template <class A>
std::vector<A> correlation(const Tensor& f, bool flip, double gain) {
  const Tensor dense = contiguous(f);
  const A* p = static_cast<const A*>(dense.const_data_ptr());
  std::vector<A> taps(p, p + f.numel());
  if (!flip) std::reverse(taps.begin(), taps.end());
  for (A& tap : taps) tap = A(tap * gain);
  return taps;
}

// Runs tasks over (plane, band of output rows): in bands only where planes are few. What is
// computed for a row does not depend on the bands.
template <class MakeTask>
void for_planes(int64_t planes, int64_t rows, MakeTask&& make_task) {
  if (planes == 0 || rows == 0) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t bands = planes >= 4 * threads ? 1 : std::clamp<int64_t>(4 * threads / planes, 1, ceil_div(rows, 16));
  torch::stable::parallel_for(0, planes * bands, 1, [&](int64_t begin, int64_t end) {
    auto task = make_task();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t band = i % bands, a = rows * band / bands, b = rows * (band + 1) / bands;
      if (a < b) task.run(i / bands, a, b, b == rows);
    }
  });
}

Axis axis_of(const Tensor& x, const Tensor& f, int axis, int64_t up, int64_t down, const Ints& offset,
             const Ints& size) {
  const int64_t taps = f.size(f.dim() == 2 ? 1 - axis : 0);
  return {up, down, offset[axis], x.size(3 - axis), size[axis], taps};
}

// --- upfirdn2d -----------------------------------------------------------------------------------

Tensor upfirdn2d(Tensor x, Tensor f, Ints up, Ints down, Ints offset, Ints size, bool flip, double gain) {
  check_filter_dtype(x, f);
  x = with_rows(x);
  Tensor y = new_empty(x, {x.size(0), x.size(1), size[1], size[0]}, x.scalar_type());
  by_arithmetic(x, [&](auto rows) {
    using A = typename decltype(rows)::type;
    Upfirdn<A> op;
    op.rows = rows;
    op.x = static_cast<const char*>(x.const_data_ptr());
    op.y = static_cast<char*>(y.mutable_data_ptr());
    op.channels = x.size(1), op.stride_n = x.stride(0), op.stride_c = x.stride(1), op.stride_h = x.stride(2);
    op.axis_x = axis_of(x, f, 0, up[0], down[0], offset, size);
    op.axis_y = axis_of(x, f, 1, up[1], down[1], offset, size);
    op.full = f.dim() == 2;
    op.taps_x = correlation<A>(f, flip, gain);
    op.taps_y = correlation<A>(f, flip, 1);
    if (fits_twofold(op)) for_planes(x.size(0) * x.size(1), size[1], [&] { return TwofoldTask<A>(op); });
    else for_planes(x.size(0) * x.size(1), size[1], [&] { return UpfirdnTask<A>(op); });
  });
  return y;
}

// --- filtered_lrelu ------------------------------------------------------------------------------

template <class A>
bool all_finite(const Filtered<A>& op, int64_t planes) {
  std::atomic<bool> finite{true};
  torch::stable::parallel_for(0, planes, 1, [&](int64_t begin, int64_t end) {
    const Buffer<A> row(row_pitch(op.up_x.inputs));
    for (int64_t i = begin * op.up_y.inputs; finite && i < end * op.up_y.inputs; ++i) {
      op.read(i / op.up_y.inputs, i % op.up_y.inputs, 0, op.up_x.inputs, row.get());
      if (!finite_row(static_cast<const A*>(row.get()), op.up_x.inputs)) finite = false;
    }
  });
  return finite;
}

// The walks pad filters of fewer taps than they are made for with zeros: those would spread NaN and
// infinity further than the filter reaches.
template <class A, Mode kMode>
void run_filtered(const Filtered<A>& op, int64_t planes) {
  const Walks<A> walks = find_walks<A, kMode>(op);
  const bool whole = op.up_y.taps == walks.window * walks.up && op.down_y.taps == walks.sums * walks.down;
  if (walks.up && (whole || all_finite(op, planes))) {
    for_planes(planes, op.down_y.outputs, [&] { return SpecialTask<A>(op, walks, kMode); });
  } else {
    for_planes(planes, op.down_y.outputs, [&] { return GeneralTask<A>(op, kMode); });
  }
}

template <class A>
Filtered<A> filtered_call(const RowAccess<A>& rows, const Tensor& x, const Tensor& y, const Tensor& codes,
                          const Tensor& fu, const Tensor& fd, int64_t up, int64_t down, const Ints& up_offset,
                          const Ints& down_offset, const Ints& high, const Ints& low, double gain, double slope,
                          bool flip) {
  Filtered<A> op;
  op.rows = rows;
  op.x = static_cast<const char*>(x.const_data_ptr());
  op.y = static_cast<char*>(y.mutable_data_ptr());
  op.codes = static_cast<uint8_t*>(codes.mutable_data_ptr());
  op.channels = x.size(1), op.stride_n = x.stride(0), op.stride_c = x.stride(1), op.stride_h = x.stride(2);
  op.high_x = high[0], op.high_y = high[1], op.code_pitch = ceil_div(high[0], 4);
  op.up_x = axis_of(x, fu, 0, up, 1, up_offset, high);
  op.up_y = axis_of(x, fu, 1, up, 1, up_offset, high);
  const int64_t taps_y = fd.size(0), taps_x = fd.size(fd.dim() - 1);
  op.down_x = {1, down, down_offset[0], high[0], low[0], taps_x};
  op.down_y = {1, down, down_offset[1], high[1], low[1], taps_y};
  op.fu_full = fu.dim() == 2, op.fd_full = fd.dim() == 2;
  op.fu_x = correlation<A>(fu, flip, gain);
  op.fu_y = correlation<A>(fu, flip, 1);
  op.fd_x = op.fd_y = correlation<A>(fd, flip, 1);
  op.slope = A(slope);
  op.limit = 0;
  op.limited = false;
  return op;
}

std::tuple<Tensor, Tensor> filtered_lrelu(Tensor x, Tensor fu, Tensor fd, std::optional<Tensor> b, int64_t up,
                                          int64_t down, Ints offset, Ints high, Ints low, double gain, double slope,
                                          Floats clamp, bool flip, bool save_codes) {
  check_filter_dtype(x, fu);
  check_filter_dtype(x, fd);
  x = with_rows(x);
  const int64_t N = x.size(0), C = x.size(1);
  Tensor y = new_empty(x, {N, C, low[1], low[0]}, x.scalar_type());
  const Ints shape = save_codes ? Ints{N, C, high[1], ceil_div(high[0], 4)} : Ints{0, 0, 0, 0};
  Tensor codes = new_empty(x, shape, ScalarType::Byte);
  std::optional<Tensor> bias;
  if (b) bias = contiguous(*b);
  by_arithmetic(x, [&](auto rows) {
    using A = typename decltype(rows)::type;
    auto op = filtered_call<A>(rows, x, y, codes, fu, fd, up, down, offset, {0, 0}, high, low, gain * double(up * up),
                               slope, flip);
    if (bias) {
      op.bias.resize(C);
      rows.read(op.bias.data(), bias->const_data_ptr(), C, A(0));
    }
    op.limited = clamp.has_value();
    op.limit = A(clamp.value_or(0));
    if (save_codes) run_filtered<A, Mode::activate_and_save>(op, N * C);
    else run_filtered<A, Mode::activate>(op, N * C);
  });
  return {y, codes};
}

Tensor filtered_mask(Tensor x, Tensor codes, Tensor fu, Tensor fd, int64_t up, int64_t down, Ints up_offset,
                     Ints down_offset, Ints high, Ints low, double gain, double slope, bool flip) {
  check_filter_dtype(x, fu);
  check_filter_dtype(x, fd);
  x = with_rows(x);
  codes = contiguous(codes);
  const int64_t N = x.size(0), C = x.size(1);
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Byte && codes.numel() == N * C * high[1] * ceil_div(high[0], 4),
                  "lvgan::filtered_mask: codes do not fit x and high");
  Tensor y = new_empty(x, {N, C, low[1], low[0]}, x.scalar_type());
  by_arithmetic(x, [&](auto rows) {
    using A = typename decltype(rows)::type;
    const auto op = filtered_call<A>(rows, x, y, codes, fu, fd, up, down, up_offset, down_offset, high, low, gain,
                                     slope, flip);
    run_filtered<A, Mode::mask>(op, N * C);
  });
  return y;
}

// --- bias_act ------------------------------------------------------------------------------------

const char* pointer(const std::optional<Tensor>& t) {
  return t ? static_cast<const char*>(t->const_data_ptr()) : nullptr;
}

template <class A>
Pointwise<A> pointwise(const RowAccess<A>& rows, const Tensor& x, const std::optional<Tensor>& b, const Tensor& out,
                       int64_t dim, double alpha, double gain, Floats clamp) {
  Pointwise<A> op{rows, pointer(x), nullptr, static_cast<char*>(out.mutable_data_ptr()), {}, 1, {}};
  if (b) {
    const Tensor dense = contiguous(*b);
    op.bias.resize(dense.numel());
    rows.read(op.bias.data(), dense.const_data_ptr(), dense.numel(), A(0));
    if (x.size(dim) > 1) op.inner = out.stride(dim);
    lengthen_bias(op);
  }
  op.set = {A(alpha), A(gain), A(clamp.value_or(0)), clamp.has_value()};
  return op;
}

constexpr int64_t kGrain = 32768;

Tensor bias_act(Tensor x, std::optional<Tensor> b, int64_t dim, std::string activation, double alpha, double gain,
                Floats clamp) {
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  x = laid_out_as(x, y);
  by_arithmetic(x, [&](auto rows) {
    using A = typename decltype(rows)::type;
    const auto op = pointwise<A>(rows, x, b, y, dim, alpha, gain, clamp);
    by_activation(activation, [&](auto act) {
      torch::stable::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
        forward_range<A, decltype(act)::value>(op, begin, end);
      });
    });
  });
  return y;
}

Tensor bias_act_backward(Tensor dy, std::optional<Tensor> x, std::optional<Tensor> b, std::optional<Tensor> y,
                         int64_t dim, std::string activation, double alpha, double gain, Floats clamp) {
  Tensor dx = torch::stable::empty_like(dy);
  if (dy.numel() == 0) return dx;
  dy = laid_out_as(dy, dx);
  if (x) x = laid_out_as(*x, dx);
  if (y) y = laid_out_as(*y, dx);
  by_arithmetic(dy, [&](auto rows) {
    using A = typename decltype(rows)::type;
    by_activation(activation, [&](auto act) {
      constexpr Act kAct = decltype(act)::value;
      auto op = pointwise<A>(rows, dy, b, dx, dim, alpha, gain, clamp);
      op.at = at_result(kAct) ? pointer(y) : pointer(x);
      STD_TORCH_CHECK(at_result(kAct) || op.at, "lvgan::bias_act_backward: ", activation, " needs x");
      torch::stable::parallel_for(0, dy.numel(), kGrain, [&](int64_t begin, int64_t end) {
        backward_range<A, kAct>(op, begin, end);
      });
    });
  });
  return dx;
}


}  // namespace
}  // namespace lvgan

#if defined(LVGAN_TILES)  // for tests: the bodies that CUDA runs
#define LVGAN_KERNELS lvgan::portable
#else
#define LVGAN_KERNELS lvgan
#endif

STABLE_TORCH_LIBRARY_IMPL(lvgan, CPU, m) {
  m.impl("upfirdn2d", TORCH_BOX(&LVGAN_KERNELS::upfirdn2d));
  m.impl("filtered_lrelu", TORCH_BOX(&LVGAN_KERNELS::filtered_lrelu));
  m.impl("filtered_mask", TORCH_BOX(&LVGAN_KERNELS::filtered_mask));
  m.impl("bias_act", TORCH_BOX(&LVGAN_KERNELS::bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&LVGAN_KERNELS::bias_act_backward));
}
