// A leaky bias_act for contiguous float32, in order to test building and loading. Nothing else.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>

using torch::stable::Tensor;

static Tensor bias_act(Tensor x, std::optional<Tensor> b, int64_t dim, std::string, double alpha, double gain,
                       std::optional<double> clamp) {
    Tensor y = torch::stable::empty_like(x);
    int64_t inner = 1;
    for (int64_t axis = dim + 1; axis < x.dim(); ++axis) inner *= x.size(axis);
    auto in = static_cast<const float*>(x.data_ptr());
    auto out = static_cast<float*>(y.data_ptr());
    auto bias = b ? static_cast<const float*>(b->data_ptr()) : nullptr;
    for (int64_t i = 0; i < x.numel(); ++i) {
        double u = in[i] + (bias ? bias[i / inner % x.size(dim)] : 0.0f);
        u *= u < 0 ? alpha * gain : gain;
        out[i] = static_cast<float>(clamp ? std::clamp(u, -*clamp, *clamp) : u);
    }
    return y;
}

STABLE_TORCH_LIBRARY_IMPL(lvgan, CPU, m) {
    m.impl("bias_act", TORCH_BOX(&bias_act));
}
