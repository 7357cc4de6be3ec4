// Colour similarity of the frames of a clip with its first one (lvgan.evaluation.color), called by ctypes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lvgan {

// Pixels in each joint bin: counts[cells], cleared first. tables[channels][256]: the share of each byte in the bin.
inline void color_counts(const uint8_t* pixel, int64_t pixels, int channels, const int32_t* tables, int64_t cells,
                         int32_t* counts) {
  std::fill(counts, counts + cells, 0);
  if (channels == 1) {
    for (int64_t i = 0; i < pixels; ++i) ++counts[tables[pixel[i]]];
    return;
  }
  const int32_t *red = tables, *green = tables + 256, *blue = tables + 512;
  for (int64_t i = 0; i < pixels; ++i, pixel += 3) ++counts[red[pixel[0]] + green[pixel[1]] + blue[pixel[2]]];
}

}  // namespace lvgan

// shared[t]: how many pixels of frame t and of frame 0 fall together. clip: [frames][pixels][channels], channels 1 or 3;
// scratch: [2][cells].
extern "C" __attribute__((visibility("default"), used)) void lvgan_color_shared(
    const uint8_t* clip, int64_t frames, int64_t pixels, int64_t channels, const int32_t* tables, int64_t cells,
    int32_t* scratch, int64_t* shared) {
  int32_t *first = scratch, *counts = scratch + cells;
  for (int64_t t = 0; t < frames; ++t) {
    int32_t* target = t == 0 ? first : counts;
    lvgan::color_counts(clip + t * pixels * channels, pixels, int(channels), tables, cells, target);
    int64_t sum = 0;
    for (int64_t i = 0; i < cells; ++i) sum += std::min(first[i], target[i]);
    shared[t] = sum;
  }
}
