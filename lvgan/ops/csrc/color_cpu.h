// Colour similarity of the frames of a clip with its first one (lvgan.evaluation.color), called by ctypes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lvgan {

constexpr int64_t kColorBlock = 2048;  // pixels whose bins are found at once: 4 KB, which stay in the cache

// The bin of a byte as (byte * factor + offset) >> 16, which compilers turn into vector instructions; a look-up in a
// table they cannot. Holds for three channels of `bins` bins whose joint bins fit into 16 bits.
struct ByteBins {
  uint32_t bins, factor, offset;
  bool exact;  // it does hold, for these tables

  ByteBins(const int32_t* tables, int64_t channels, int64_t cells)
      : bins(uint32_t(tables[channels * 256 - 1]) + 1), offset((1u << 15) + 64) {
    factor = ((bins - 1) * 2 * 65536 + 255) / 510;
    exact = channels == 3 && cells <= 65536;
    for (uint32_t byte = 0; byte < 256 && exact; ++byte) {
      const uint32_t bin = at(uint8_t(byte));
      exact = uint32_t(tables[512 + byte]) == bin && uint32_t(tables[256 + byte]) == bin * bins &&
              uint32_t(tables[byte]) == bin * bins * bins;
    }
  }
  uint32_t at(uint8_t byte) const { return (byte * factor + offset) >> 16; }
};

inline void color_counts_by_arithmetic(const uint8_t* pixel, int64_t pixels, ByteBins by, int32_t* counts) {
  alignas(64) uint16_t joint[kColorBlock];
  for (int64_t first = 0; first < pixels; first += kColorBlock) {
    const int64_t block = std::min(kColorBlock, pixels - first);
    const uint8_t* p = pixel + 3 * first;
    for (int64_t i = 0; i < block; ++i)
      joint[i] = uint16_t((by.at(p[3 * i]) * by.bins + by.at(p[3 * i + 1])) * by.bins + by.at(p[3 * i + 2]));
    for (int64_t i = 0; i < block; ++i) ++counts[joint[i]];
  }
}

// Pixels in each joint bin: counts[cells], cleared first. tables[channels][256]: the share of each byte in the bin.
inline void color_counts(const uint8_t* pixel, int64_t pixels, int channels, const int32_t* tables, int64_t cells,
                         const ByteBins* by, int32_t* counts) {
  std::fill(counts, counts + cells, 0);
  if (channels == 1) {
    for (int64_t i = 0; i < pixels; ++i) ++counts[tables[pixel[i]]];
    return;
  }
  if (by != nullptr) return color_counts_by_arithmetic(pixel, pixels, *by, counts);
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
  const lvgan::ByteBins bins(tables, channels, cells);
  const lvgan::ByteBins* by = bins.exact ? &bins : nullptr;
  for (int64_t t = 0; t < frames; ++t) {
    int32_t* target = t == 0 ? first : counts;
    lvgan::color_counts(clip + t * pixels * channels, pixels, int(channels), tables, cells, by, target);
    int64_t sum = 0;
    for (int64_t i = 0; i < cells; ++i) sum += std::min(first[i], target[i]);
    shared[t] = sum;
  }
}
