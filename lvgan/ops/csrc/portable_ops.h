// The operators through the bodies of tile.h, resample.h and bias_act_math.h. The file that includes this defines
// before it, in namespace lvgan,
//   template <class Body> void run_each(const Tensor& on, int64_t count, const Body& body);
//   template <class Body> void run_tiles(const Tensor& on, int64_t count, const Body& body);
// which call body(i) for every i, and body(share, i, memory) with a Body::Memory for every tile.
#pragma once

#include <algorithm>

#include "bias_act_math.h"
#include "resample.h"
#include "stable.h"
#include "tile.h"

namespace lvgan {
namespace portable {
namespace {

inline Kind kind_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Kind::f32;
    case ScalarType::Half: return Kind::f16;
    case ScalarType::BFloat16: return Kind::bf16;
    case ScalarType::Double: return Kind::f64;
    default: STD_TORCH_CHECK(false, "lvgan: expected float16, bfloat16, float32 or float64");
  }
}

// f(A{}) with the type of the arithmetic.
template <class F>
void by_arithmetic(const Tensor& x, F&& f) {
  if (x.scalar_type() == ScalarType::Double) f(double{});
  else f(float{});
}

inline const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

template <class A>
struct ResampleBody {
  ResampleCall call;
  LVGAN_BOTH void operator()(int64_t i) const { resample_number<A>(call, i); }
};

template <class S, class A>
struct ResampleTileBody {
  using Memory = typename S::template Memory<A>;
  ResampleCall call;
  LVGAN_BOTH void operator()(const Share& share, int64_t index, Memory& memory) const {
    resample_tile<S, A>(share, call, index, memory);
  }
};

constexpr int64_t kLargest = 1 << 24;  // tiles count in 32 bits

inline bool fits_tiles(const Ints& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](int64_t n) { return -kLargest < n && n < kLargest; });
}

// Runs the kernel for these factors and at most U * N taps, if the call has them.
template <int U, int D, int N, class A>
bool try_tiles(const Tensor& y, const ResampleCall& call) {
  if (call.up_x != U || call.down_x != D || call.taps_x > U * N) return false;
  using S = ResampleShape<U, D, N>;
  run_tiles(y, call.planes * S::tiles_x(call) * S::tiles_y(call), ResampleTileBody<S, A>{call});
  return true;
}

// The factors and taps of the networks (and of their gradients): the discriminator's 4 taps, 12 of the
// augmentations, bilinear upsampling by 4. Double precision as for filtered_lrelu, below.
template <class A>
bool resampled_in_tiles(const Tensor& y, const ResampleCall& call) {
  if constexpr (kTilesInDouble || sizeof(A) == 4) {
    const bool alike = !call.full && call.up_x == call.up_y && call.down_x == call.down_y;
    const Ints numbers{call.in_x, call.in_y, call.out_x, call.out_y, call.offset_x, call.offset_y};
    if (!alike || !fits_tiles(numbers)) return false;
    return try_tiles<1, 1, 4, A>(y, call) || try_tiles<2, 1, 2, A>(y, call) || try_tiles<1, 2, 4, A>(y, call) ||
           try_tiles<2, 1, 6, A>(y, call) || try_tiles<1, 2, 12, A>(y, call) || try_tiles<4, 1, 2, A>(y, call) ||
           try_tiles<1, 4, 8, A>(y, call);
  }
  return false;
}

// y = f * x (with bias).
inline void resample(const Tensor& x, const std::optional<Tensor>& bias, const Tensor& y, const Tensor& f, const Ints& up,
                     const Ints& down, const Ints& offset, const Ints& size, bool flip, double gain) {
  ResampleCall call;
  call.x = x.const_data_ptr(), call.bias = pointer(bias), call.y = y.mutable_data_ptr(), call.f = f.const_data_ptr();
  call.in = kind_of(x), call.out = kind_of(y), call.tap = kind_of(f);
  call.full = f.dim() == 2, call.flip = flip, call.gain = gain;
  call.planes = x.size(0) * x.size(1), call.channels = x.size(1);
  call.stride_n = x.stride(0), call.stride_c = x.stride(1), call.stride_h = x.stride(2), call.stride_w = x.stride(3);
  call.in_x = x.size(3), call.in_y = x.size(2), call.out_x = size[0], call.out_y = size[1];
  call.up_x = up[0], call.up_y = up[1], call.down_x = down[0], call.down_y = down[1];
  call.offset_x = offset[0], call.offset_y = offset[1];
  call.taps_y = f.size(0), call.taps_x = f.size(f.dim() - 1);
  by_arithmetic(f, [&](auto zero) {
    using A = decltype(zero);
    if (!resampled_in_tiles<A>(y, call)) run_each(y, call.count(), ResampleBody<A>{call});
  });
}

inline Tensor upfirdn2d(Tensor x, Tensor f, Ints up, Ints down, Ints offset, Ints size, bool flip, double gain) {
  check_filter_dtype(x, f);
  f = contiguous(f);
  Tensor y = new_empty(x, {x.size(0), x.size(1), size[1], size[0]}, x.scalar_type());
  resample(x, std::nullopt, y, f, up, down, offset, size, flip, gain);
  return y;
}

// --- filtered_lrelu ---------------------------------------------------------------------------------

template <class S, int SHIFT, Mode kMode, class A>
struct TileBody {
  using Memory = typename S::template Memory<A>;
  TileCall<A> call;
  LVGAN_BOTH void operator()(const Share& share, int64_t index, Memory& memory) const {
    filter_tile<S, SHIFT, kMode>(share, call, index, memory);
  }
};

template <Mode kMode, class A>
struct TreatBody {
  TreatCall<A> call;
  LVGAN_BOTH void operator()(int64_t i) const { treat_four<kMode>(call, i); }
};

// A call of either operator; down_offset is 0 and bias as given for filtered_lrelu.
struct FilteredArguments {
  Tensor x, y, codes, fu, fd;
  std::optional<Tensor> bias;
  int64_t up, down;
  Ints up_offset, down_offset, high, low;
  double gain, slope;
  Floats clamp;
  bool flip;
};

template <class A>
TileCall<A> tile_call(const FilteredArguments& a, int width, int height) {
  TileCall<A> call;
  call.x = a.x.const_data_ptr(), call.bias = pointer(a.bias), call.y = a.y.mutable_data_ptr();
  call.codes = static_cast<uint8_t*>(a.codes.mutable_data_ptr());
  call.kind = kind_of(a.x), call.limited = a.clamp.has_value(), call.limit = A(a.clamp.value_or(0));
  call.planes = a.x.size(0) * a.x.size(1), call.channels = a.x.size(1);
  call.stride_n = a.x.stride(0), call.stride_c = a.x.stride(1), call.stride_h = a.x.stride(2), call.stride_w = a.x.stride(3);
  call.code_pitch = (a.high[0] + 3) / 4;
  call.in_x = int(a.x.size(3)), call.in_y = int(a.x.size(2));
  call.high_x = int(a.high[0]), call.high_y = int(a.high[1]), call.low_x = int(a.low[0]), call.low_y = int(a.low[1]);
  call.up_x = int(a.up_offset[0]), call.up_y = int(a.up_offset[1]);
  call.down_x = int(a.down_offset[0]), call.down_y = int(a.down_offset[1]);
  call.tiles_x = (call.low_x + width - 1) / width, call.tiles_y = (call.low_y + height - 1) / height;
  call.slope = A(a.slope), call.gain = A(a.gain), call.flip = a.flip;
  call.fu = static_cast<const A*>(a.fu.const_data_ptr()), call.fd = static_cast<const A*>(a.fd.const_data_ptr());
  call.taps_u = int(a.fu.numel()), call.taps_d = int(a.fd.numel());
  return call;
}

template <int U, int D, Mode kMode, class A>
void run_special(const FilteredArguments& a) {
  using S = TileShape<U, D, 6, 6>;
  const TileCall<A> call = tile_call<A>(a, S::width, S::height);
  const int64_t count = call.planes * call.tiles_x * call.tiles_y;
  if (count == 0) return;
  const Tile<S, A> first(call, 0);
  if (first.shift() == 0) run_tiles(a.y, count, TileBody<S, 0, kMode, A>{call});
  else run_tiles(a.y, count, TileBody<S, 1, kMode, A>{call});
}

// Three passes over memory, for factors and filters that have no kernel of their own.
template <Mode kMode, class A>
void run_general(const FilteredArguments& a) {
  const auto wide = sizeof(A) == 8 ? ScalarType::Double : ScalarType::Float;
  const Tensor signal = new_empty(a.x, {a.x.size(0), a.x.size(1), a.high[1], a.high[0]}, wide);
  resample(a.x, a.bias, signal, a.fu, {a.up, a.up}, {1, 1}, a.up_offset, a.high, a.flip, a.gain);
  const int64_t rows = a.x.size(0) * a.x.size(1) * a.high[1];
  TreatCall<A> call{static_cast<A*>(signal.mutable_data_ptr()), static_cast<uint8_t*>(a.codes.mutable_data_ptr()), rows,
                    a.high[0], (a.high[0] + 3) / 4, A(a.slope), A(a.clamp.value_or(0)), a.clamp.has_value()};
  run_each(signal, call.count(), TreatBody<kMode, A>{call});
  resample(signal, std::nullopt, a.y, a.fd, {1, 1}, {a.down, a.down}, a.down_offset, a.low, a.flip, 1);
}

// Double precision is for gradient checks: on the CPU alone it has the specialised kernels.
template <Mode kMode, class A>
void run_filtered(const FilteredArguments& a) {
  const bool small = fits_tiles({a.x.size(2), a.x.size(3)}) && fits_tiles(a.high) && fits_tiles(a.up_offset) &&
                     fits_tiles(a.down_offset);
  // Fewer taps would be padded with zeros, which spread NaN and infinity further than the filter reaches.
  if (small && a.fu.dim() == 1 && a.fd.dim() == 1 && a.fu.numel() == 6 * a.up && a.fd.numel() == 6 * a.down) {
    if constexpr (kTilesInDouble || sizeof(A) == 4) {
      if (a.up == 2 && a.down == 2) return run_special<2, 2, kMode, A>(a);
      if (a.up == 4 && a.down == 2) return run_special<4, 2, kMode, A>(a);
      if (a.up == 2 && a.down == 4) return run_special<2, 4, kMode, A>(a);
    }
  }
  run_general<kMode, A>(a);
}

inline std::tuple<Tensor, Tensor> filtered_lrelu(Tensor x, Tensor fu, Tensor fd, std::optional<Tensor> b, int64_t up,
                                                 int64_t down, Ints offset, Ints high, Ints low, double gain,
                                                 double slope, Floats clamp, bool flip, bool save_codes) {
  check_filter_dtype(x, fu);
  check_filter_dtype(x, fd);
  const int64_t N = x.size(0), C = x.size(1);
  Tensor y = new_empty(x, {N, C, low[1], low[0]}, x.scalar_type());
  const Ints shape = save_codes ? Ints{N, C, high[1], (high[0] + 3) / 4} : Ints{0, 0, 0, 0};
  Tensor codes = new_empty(x, shape, ScalarType::Byte);
  if (b) b = contiguous(*b);
  const FilteredArguments a{x, y, codes, contiguous(fu), contiguous(fd), b, up, down, offset, {0, 0}, high, low,
                            gain * double(up * up), slope, clamp, flip};
  by_arithmetic(x, [&](auto zero) {
    using A = decltype(zero);
    if (save_codes) run_filtered<Mode::activate_and_save, A>(a);
    else run_filtered<Mode::activate, A>(a);
  });
  return {y, codes};
}

inline Tensor filtered_mask(Tensor x, Tensor codes, Tensor fu, Tensor fd, int64_t up, int64_t down, Ints up_offset,
                            Ints down_offset, Ints high, Ints low, double gain, double slope, bool flip) {
  check_filter_dtype(x, fu);
  check_filter_dtype(x, fd);
  const int64_t N = x.size(0), C = x.size(1);
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Byte && codes.numel() == N * C * high[1] * ((high[0] + 3) / 4),
                  "lvgan::filtered_mask: codes do not fit x and high");
  Tensor y = new_empty(x, {N, C, low[1], low[0]}, x.scalar_type());
  const FilteredArguments a{x, y, contiguous(codes), contiguous(fu), contiguous(fd), std::nullopt, up, down, up_offset,
                            down_offset, high, low, gain, slope, std::nullopt, flip};
  by_arithmetic(x, [&](auto zero) { run_filtered<Mode::mask, decltype(zero)>(a); });
  return y;
}

// --- bias_act ---------------------------------------------------------------------------------------

template <Act kAct, class A>
struct ForwardBody {
  PointCall<A> call;
  LVGAN_BOTH void operator()(int64_t i) const { point_forward<kAct>(call, i); }
};

template <Act kAct, class A>
struct BackwardBody {
  PointCall<A> call;
  LVGAN_BOTH void operator()(int64_t i) const { point_backward<kAct>(call, i); }
};

template <class A>
PointCall<A> point_call(const Tensor& x, const std::optional<Tensor>& b, const Tensor& out, int64_t dim, double alpha,
                        double gain, Floats clamp) {
  PointCall<A> call{x.const_data_ptr(), nullptr, pointer(b), out.mutable_data_ptr(), kind_of(x), x.numel(), 1, 1, {}};
  if (b && x.size(dim) > 1) call.inner = out.stride(dim), call.channels = x.size(dim);
  call.set = {A(alpha), A(gain), A(clamp.value_or(0)), clamp.has_value()};
  return call;
}

inline Tensor bias_act(Tensor x, std::optional<Tensor> b, int64_t dim, std::string activation, double alpha, double gain,
                       Floats clamp) {
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  x = laid_out_as(x, y);
  if (b) b = contiguous(*b);
  by_arithmetic(x, [&](auto zero) {
    using A = decltype(zero);
    const auto call = point_call<A>(x, b, y, dim, alpha, gain, clamp);
    by_activation(activation, [&](auto act) { run_each(y, call.count, ForwardBody<decltype(act)::value, A>{call}); });
  });
  return y;
}

inline Tensor bias_act_backward(Tensor dy, std::optional<Tensor> x, std::optional<Tensor> b, std::optional<Tensor> y,
                                int64_t dim, std::string activation, double alpha, double gain, Floats clamp) {
  Tensor dx = torch::stable::empty_like(dy);
  if (dy.numel() == 0) return dx;
  dy = laid_out_as(dy, dx);
  if (x) x = laid_out_as(*x, dx);
  if (y) y = laid_out_as(*y, dx);
  if (b) b = contiguous(*b);
  by_arithmetic(dy, [&](auto zero) {
    using A = decltype(zero);
    auto call = point_call<A>(dy, b, dx, dim, alpha, gain, clamp);
    by_activation(activation, [&](auto act) {
      constexpr Act kAct = decltype(act)::value;
      call.at = at_result(kAct) ? pointer(y) : pointer(x);
      STD_TORCH_CHECK(at_result(kAct) || call.at, "lvgan::bias_act_backward: this activation needs x");
      run_each(dx, call.count, BackwardBody<kAct, A>{call});
    });
  });
  return dx;
}

}  // namespace
}  // namespace portable
}  // namespace lvgan
