// Kernels for the CPU: of layers that normalise by mixtures of the rows of feature maps (`_fused.py` has the mathematics),
// and passes over maps for layers whose tables are made elsewhere (`_fused_rows.py`).
//
// `_compiled.py` compiles this once for each type of maps: VALUE_BITS is 32 for float, 64 for double, 16 for bfloat16.
// Tables are float, those of double maps double; they have a number for every row, [N, C], unless it is said otherwise.
//
// A sheet is what one thread deals with at once: a sample if its channels lie together, or else a row. It is read in
// lines of lanes, a multiple of LANES: value i is in lane i mod `lanes`, and has channel i mod `channels`. A row has one
// channel, a sample has all. Tables are spread over the lanes, and sums of lanes are folded to those of channels. Every
// sum is made by one thread in one order: results are the same whatever the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

#if VALUE_BITS == 64
typedef double value;
typedef double number;
#elif VALUE_BITS == 32
typedef float value;
typedef float number;
#else
typedef std::uint16_t value;
typedef float number;
#endif

#define INLINE inline __attribute__((always_inline))

constexpr long LANES = 16;  // of a vector
constexpr long VALUES_AT_A_TIME = 4096;  // of a sheet, before the next lanes have their turn: they stay in the cache
constexpr long BLOCK = CHANNELS_OF_COPY;  // channels whose tables one thread deals with

typedef number numbers __attribute__((vector_size(LANES * sizeof(number))));
typedef value values __attribute__((vector_size(LANES * sizeof(value))));

template <typename Vector, typename Element>
INLINE Vector vector_at(const Element *place, long count = LANES) {
    Vector vector = {};
    std::memcpy(&vector, place, count * sizeof(Element));
    return vector;
}

#if VALUE_BITS == 16
typedef std::uint32_t words __attribute__((vector_size(LANES * sizeof(std::uint32_t))));

INLINE numbers widened(values vector) { return (numbers)(__builtin_convertvector(vector, words) << 16); }

INLINE values narrowed(numbers vector) {  // to the nearest, ties to even
    const words bits = (words)vector, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const words is_number = (words)(vector == vector);
    return __builtin_convertvector((rounded & is_number) | (0x7fc0 & ~is_number), values);
}
#else
INLINE numbers widened(values vector) { return vector; }

INLINE values narrowed(numbers vector) { return vector; }
#endif

INLINE numbers load(const value *place, long count) { return widened(vector_at<values>(place, count)); }

INLINE void store(value *place, numbers vector, long count) {
    const values narrow = narrowed(vector);
    std::memcpy(place, &narrow, count * sizeof(value));
}

INLINE numbers lanes_at(const number *table, long first) { return vector_at<numbers>(table + first); }

// The first `count` lanes, and 0 in the others.
INLINE numbers leading(numbers vector, long count) {
    return count == LANES ? vector : vector_at<numbers>(reinterpret_cast<const number *>(&vector), count);
}

INLINE numbers positive(numbers vector) { return vector < 0 ? numbers{} : vector; }

struct Layout {
    long sheets, length, lanes, channels;

    Layout(long num_samples, long num_channels, long num_pixels, bool channels_last)
        : sheets(num_samples * num_channels), length(num_pixels), lanes(LANES), channels(1) {
        if (!channels_last) return;
        sheets = num_samples, length = num_channels * num_pixels, channels = num_channels;
        for (lanes = channels; lanes % LANES != 0;) lanes *= 2;
    }

    // The channels' entries of a table, in every lane that they hold for.
    void spread(const number *table, number *to) const {
        if (channels == 1) {
            for (long lane = 0; lane < LANES; lane++) to[lane] = *table;
            return;
        }
        for (long lane = 0; lane < lanes; lane += channels) std::memcpy(to + lane, table, channels * sizeof(number));
    }

    void fold(number *from, number share, number *table) const {
        if (channels == 1) {
            for (long half = LANES / 2; half > 0; half /= 2)
                for (long lane = 0; lane < half; lane++) from[lane] += from[lane + half];
            *table = *from * share;
            return;
        }
        for (long lane = channels; lane < lanes; lane += channels)
            for (long channel = 0; channel < channels; channel++) from[channel] += from[lane + channel];
        for (long channel = 0; channel < channels; channel++) table[channel] = from[channel] * share;
    }

    // Goes through a sheet. `make(first)` gives what is done with the lanes from `first` on: a function that takes the
    // place of their values, how many they are, and SUMS vectors to add to. Sums of all lanes go to [SUMS, lanes].
    template <int SUMS, typename Make>
    INLINE void over_sheet(number *sums, Make make) const {
        const long lines = length / lanes, rest = length % lanes, some = VALUES_AT_A_TIME / lanes + 2;
        for (long start = 0; start == 0 || start < lines; start += some) {
            const long end = start + some < lines ? start + some : lines;
            for (long first = 0; first < lanes; first += LANES) {
                const auto act = make(first);
                numbers even[SUMS + 1] = {}, odd[SUMS + 1] = {};  // which need not wait for each other
                long line = start;
                for (; line + 1 < end; line += 2) {
                    act(line * lanes + first, LANES, even);
                    act((line + 1) * lanes + first, LANES, odd);
                }
                if (line < end) act(line * lanes + first, LANES, even);
                if (end == lines && first < rest)
                    act(lines * lanes + first, rest - first < LANES ? rest - first : LANES, odd);
                for (int sum = 0; sum < SUMS; sum++) {
                    const numbers before = start == 0 ? numbers{} : lanes_at(sums + sum * lanes, first);
                    const numbers total = before + (even[sum] + odd[sum]);
                    std::memcpy(sums + sum * lanes + first, &total, sizeof total);
                }
            }
        }
    }
};

// Spread tables of a sheet, as many as are asked for, which its thread goes on using.
struct Lanes {
    const Layout &maps;
    std::unique_ptr<number[]> memory;

    Lanes(const Layout &layout, long tables) : maps(layout), memory(new number[tables * layout.lanes]) {}

    number *operator[](long table) const { return memory.get() + table * maps.lanes; }

    number *spread(long table, const number *from, long sheet) const {
        maps.spread(from + sheet * maps.channels, (*this)[table]);
        return (*this)[table];
    }
};

void moments_of_sheet(const value *x, const Lanes &lanes, long sheet, long num_pixels, number *means, number *variances) {
    const Layout &maps = lanes.maps;
    number *sums = lanes[1], *own_means = means + sheet * maps.channels;
    maps.over_sheet<1>(sums, [=](long) {
        return [=](long at, long count, numbers *total) { *total += load(x + at, count); };
    });
    maps.fold(sums, number(1) / num_pixels, own_means);
    const number *centers = lanes.spread(0, means, sheet);
    maps.over_sheet<1>(sums, [=](long first) {
        const numbers center = lanes_at(centers, first);
        return [=](long at, long count, numbers *total) {
            const numbers distance = leading(load(x + at, count) - center, count);
            *total += distance * distance;
        };
    });
    maps.fold(sums, number(1) / num_pixels, variances + sheet * maps.channels);
}

// relu((x - center) · slope + offset + added)
template <bool ADDS, bool RECTIFIES>
void map_sheet(const value *x, const value *added, value *y, const Layout &maps, const number *centers,
               const number *slopes, const number *offsets) {
    maps.over_sheet<0>(nullptr, [=](long first) {
        const numbers center = lanes_at(centers, first), slope = lanes_at(slopes, first),
                      offset = lanes_at(offsets, first);
        return [=](long at, long count, numbers *) {
            numbers result = (load(x + at, count) - center) * slope + offset;
            if (ADDS) result += load(added + at, count);
            store(y + at, RECTIFIES ? positive(result) : result, count);
        };
    });
}

// What a gradient is before the ReLU with the result y.
template <bool RECTIFIED>
INLINE numbers received(const value *gradient, const value *y, long at, long count) {
    const numbers given = load(gradient + at, count);
    return RECTIFIED ? (load(y + at, count) <= 0 ? numbers{} : given) : given;
}

// Σ g and Σ g (x - center) of all lanes, and g itself where it is kept.
template <bool RECTIFIED>
void sums_of_sheet(const value *gradient, const value *x, const value *y, value *kept, const Layout &maps,
                   const number *centers, number *sums) {
    maps.over_sheet<2>(sums, [=](long first) {
        const numbers center = lanes_at(centers, first);
        return [=](long at, long count, numbers *totals) {
            const numbers own = received<RECTIFIED>(gradient, y, at, count);
            if (RECTIFIED && kept) store(kept + at, own, count);
            totals[0] += own;
            totals[1] += own * (load(x + at, count) - center);
        };
    });
}

// g · slope + (x - center) · x_slope + offset
template <bool RECTIFIED>
void pass_on_sheet(const value *gradient, const value *x, const value *y, value *grad_x, const Layout &maps,
                   const number *centers, const number *slopes, const number *x_slopes, const number *offsets) {
    maps.over_sheet<0>(nullptr, [=](long first) {
        const numbers center = lanes_at(centers, first), slope = lanes_at(slopes, first),
                      x_slope = lanes_at(x_slopes, first), offset = lanes_at(offsets, first);
        return [=](long at, long count, numbers *) {
            const numbers own = received<RECTIFIED>(gradient, y, at, count);
            store(grad_x + at, own * slope + ((load(x + at, count) - center) * x_slope + offset), count);
        };
    });
}

// Passes over all sheets, which the threads of a parallel region share among themselves. Tables [2, N, C] of rows are
// their means and variances, or sums and products; lines [2 or 3, N, C] are what sheets are mapped with.

void moments_of_all(const value *x, number *table, const Lanes &lanes, long rows, long num_pixels) {
#pragma omp for schedule(static)
    for (long sheet = 0; sheet < lanes.maps.sheets; sheet++)
        moments_of_sheet(x + sheet * lanes.maps.length, lanes, sheet, num_pixels, table, table + rows);
}

void map_all(const value *x, const value *added, value *y, const number *table, const number *lines, const Lanes &lanes,
             long rows, bool rectifies) {
    const auto map = added ? (rectifies ? map_sheet<true, true> : map_sheet<true, false>)
                           : (rectifies ? map_sheet<false, true> : map_sheet<false, false>);
#pragma omp for schedule(static)
    for (long sheet = 0; sheet < lanes.maps.sheets; sheet++) {
        const long first = sheet * lanes.maps.length;
        map(x + first, added ? added + first : nullptr, y + first, lanes.maps, lanes.spread(0, table, sheet),
            lanes.spread(1, lines, sheet), lanes.spread(2, lines + rows, sheet));
    }
}

void sums_of_all(const value *gradient, const value *x, const value *y, value *kept, const number *table, number *sums,
                 const Lanes &lanes, long rows) {
    const auto sum = y ? sums_of_sheet<true> : sums_of_sheet<false>;
#pragma omp for schedule(static)
    for (long sheet = 0; sheet < lanes.maps.sheets; sheet++) {
        const long first = sheet * lanes.maps.length, of_channels = sheet * lanes.maps.channels;
        number *own = lanes[1];  // and lanes[2]
        sum(gradient + first, x + first, y ? y + first : nullptr, kept ? kept + first : nullptr, lanes.maps,
            lanes.spread(0, table, sheet), own);
        lanes.maps.fold(own, 1, sums + of_channels);
        lanes.maps.fold(own + lanes.maps.lanes, 1, sums + rows + of_channels);
    }
}

void pass_all_on(const value *gradient, const value *x, const value *y, const value *kept, value *grad_x,
                 const number *table, const number *lines, const Lanes &lanes, long rows) {
    const auto pass_on = y && !kept ? pass_on_sheet<true> : pass_on_sheet<false>;
    const value *passed = y && kept ? kept : gradient;
#pragma omp for schedule(static)
    for (long sheet = 0; sheet < lanes.maps.sheets; sheet++) {
        const long first = sheet * lanes.maps.length;
        pass_on(passed + first, x + first, y ? y + first : nullptr, grad_x + first, lanes.maps,
                lanes.spread(0, table, sheet), lanes.spread(1, lines, sheet), lanes.spread(2, lines + rows, sheet),
                lanes.spread(3, lines + 2 * rows, sheet));
    }
}

// Sizes of maps and of their tables.
struct Counts {
    long samples, channels, pixels, groups;
};

// Channels that lie together.
struct Block {
    long begin, size;

    template <typename Act>
    INLINE void for_all(Act act) const {
        for (long i = 0; i < size; i++) act(i);
    }
};

// What follows from the tables for a block of channels: statistics [3, G, C] (means, variances, inverse standard
// deviations), lines [2, N, C] (slopes, offsets), and the running statistics [C].
void mix(const number *means, const number *variances, const number *shares, const number *outputs, const number *weight,
         const number *bias, number *statistics, number *running_mean, number *running_var, number *lines,
         const Counts &counts, number eps, number momentum, Block block) {
    const long rows = counts.samples * counts.channels, entries = counts.groups * counts.channels;
    for (long group = 0; group < counts.groups; group++) {
        const number *share = shares + group * counts.samples;
        double mean_sum[BLOCK] = {}, variance_sum[BLOCK] = {};  // of many samples, whose means may be far from 0
        number mean[BLOCK], scale[BLOCK];
        long num_members = 0;
        for (long n = 0; n < counts.samples; n++) {
            num_members += share[n] > 0;
            if (share[n] == 0) continue;
            const number *own = means + n * counts.channels + block.begin;
            block.for_all([&](long i) { mean_sum[i] += double(share[n]) * own[i]; });
        }
        block.for_all([&](long i) { mean[i] = mean_sum[i]; });
        for (long n = 0; n < counts.samples; n++) {
            if (share[n] == 0) continue;
            const long row = n * counts.channels + block.begin;
            const number *own = means + row, *spread = variances + row;
            block.for_all([&](long i) {
                const number distance = own[i] - mean[i];
                variance_sum[i] += share[n] * (spread[i] + distance * distance);
            });
        }
        number *entry = statistics + group * counts.channels + block.begin;
        block.for_all([&](long i) {
            const number variance = variance_sum[i], inverse_std = 1 / std::sqrt(variance + eps);
            entry[i] = mean[i], entry[entries + i] = variance, entry[2 * entries + i] = inverse_std;
            scale[i] = weight ? inverse_std * weight[block.begin + i] : inverse_std;
        });
        for (long n = 0; n < counts.samples; n++) {
            const long row = n * counts.channels + block.begin;
            const number output = outputs[n * counts.groups + group], *own = means + row;
            number *__restrict slopes = lines + row, *__restrict offsets = lines + rows + row;
            if (group == 0) {
                block.for_all([&](long i) {
                    slopes[i] = 0;
                    offsets[i] = bias ? bias[block.begin + i] : 0;
                });
            }
            if (output == 0) continue;
            block.for_all([&](long i) {
                const number slope = output * scale[i];
                slopes[i] += slope;
                offsets[i] += slope * (own[i] - mean[i]);
            });
        }
        if (!running_mean) continue;
        const number num_values = number(num_members) * counts.pixels, unbiased = num_values / (num_values - 1);
        block.for_all([&](long i) {
            number &tracked_mean = running_mean[block.begin + i], &tracked_var = running_var[block.begin + i];
            tracked_mean += momentum * (mean[i] - tracked_mean);
            tracked_var += momentum * (unbiased * entry[entries + i] - tracked_var);
        });
    }
}

// The same of a backward pass: gradients of weight and bias [C] and of a copy of the shares [G, N], and lines [3, N, C]
// (slopes, slopes of x, offsets).
void mix_back(const number *means, const number *variances, const number *sums, const number *products,
              const number *shares, const number *outputs, const number *weight, const number *statistics,
              const number *grad_statistics, number *grad_weight, number *grad_bias, number *grad_shares, number *lines,
              const Counts &counts, Block block) {
    const long rows = counts.samples * counts.channels, entries = counts.groups * counts.channels;
    number of_weight[BLOCK] = {}, of_bias[BLOCK] = {};
    for (long group = 0; group < counts.groups; group++) {
        const number *share = shares + group * counts.samples;
        const long first = group * counts.channels + block.begin;
        double of_shift[BLOCK] = {}, of_slope[BLOCK] = {}, total = 0;
        number mean[BLOCK], scale[BLOCK];
        block.for_all([&](long i) { mean[i] = statistics[first + i]; });
        for (long n = 0; n < counts.samples; n++) {
            total += share[n];
            const number output = outputs[n * counts.groups + group];
            if (output == 0) continue;
            const long row = n * counts.channels + block.begin;
            const number *own = means + row, *sum = sums + row, *product = products + row;
            block.for_all([&](long i) {
                of_shift[i] += output * sum[i];
                of_slope[i] += output * (product[i] + (own[i] - mean[i]) * sum[i]);
            });
        }
        number of_mean[BLOCK], of_variance[BLOCK];
        block.for_all([&](long i) {
            const number inverse_std = statistics[2 * entries + first + i];
            of_bias[i] += of_shift[i];
            of_weight[i] += inverse_std * of_slope[i];
            scale[i] = weight ? inverse_std * weight[block.begin + i] : inverse_std;
            of_mean[i] = -scale[i] * of_shift[i];
            of_variance[i] = number(-0.5) * scale[i] * inverse_std * inverse_std * of_slope[i];
            if (grad_statistics) {
                of_mean[i] += grad_statistics[first + i];
                of_variance[i] += grad_statistics[entries + first + i];
            }
            of_mean[i] -= 2 * of_variance[i] * mean[i] * number(1 - total);
        });
        for (long n = 0; n < counts.samples; n++) {
            const long row = n * counts.channels + block.begin;
            const number output = outputs[n * counts.groups + group], of_pixel = share[n] / counts.pixels,
                         *own = means + row, *spread = variances + row;
            number *__restrict slopes = lines + row, *__restrict x_slopes = lines + rows + row,
                               *__restrict offsets = lines + 2 * rows + row;
            if (group == 0) block.for_all([&](long i) { slopes[i] = x_slopes[i] = offsets[i] = 0; });
            if (output != 0) block.for_all([&](long i) { slopes[i] += output * scale[i]; });
            if (share[n] != 0)
                block.for_all([&](long i) {
                    const number x_slope = 2 * of_pixel * of_variance[i];
                    x_slopes[i] += x_slope;
                    offsets[i] += of_pixel * of_mean[i] + x_slope * (own[i] - mean[i]);
                });
            if (!grad_shares) continue;
            number of_share = 0;
            block.for_all([&](long i) {
                const number distance = own[i] - mean[i];
                of_share += own[i] * of_mean[i] + (spread[i] + distance * distance) * of_variance[i];
            });
            grad_shares[group * counts.samples + n] = of_share;
        }
    }
    if (!weight) return;
    block.for_all([&](long i) {
        grad_weight[block.begin + i] = of_weight[i];
        grad_bias[block.begin + i] = of_bias[i];
    });
}

Block block_at(long begin, long num_channels) {
    return {begin, begin + BLOCK < num_channels ? BLOCK : num_channels - begin};
}

}  // namespace

// Table [2, N, C] of the means and variances of rows, statistics [3, G, C] of the groups, and the maps y. Null pointers
// stand for what is not there; `lines` [2, N, C] is to write on.
extern "C" void normalize(const value *x, const value *added, value *y, number *table, number *lines,
                          const number *shares, const number *outputs, const number *weight, const number *bias,
                          number *statistics, number *running_mean, number *running_var, long num_samples,
                          long num_channels, long num_pixels, long num_groups, long channels_last, long rectifies,
                          double eps, double momentum, long num_threads) {
    const Counts counts{num_samples, num_channels, num_pixels, num_groups};
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
    const long rows = num_samples * num_channels;
#pragma omp parallel num_threads(num_threads)
    {
        const Lanes lanes(maps, 3);
        moments_of_all(x, table, lanes, rows, num_pixels);
#pragma omp for schedule(static)
        for (long begin = 0; begin < num_channels; begin += BLOCK)
            mix(table, table + rows, shares, outputs, weight, bias, statistics, running_mean, running_var, lines, counts,
                eps, momentum, block_at(begin, num_channels));
        map_all(x, added, y, table, lines, lanes, rows, rectifies);
    }
}

// Gradients of the maps, of weight and bias, and of the shares, [copies, G, N] with one for each block of channels. With
// y, the result of a ReLU, `kept` becomes the gradient before it, if it is not null. `lines` [5, N, C] is to write on.
extern "C" void pass_back(const value *gradient, const value *x, const value *y, value *kept, value *grad_x,
                          const number *table, number *lines, const number *shares, const number *outputs,
                          const number *weight, const number *statistics, const number *grad_statistics,
                          number *grad_weight, number *grad_bias, number *grad_shares, long num_samples,
                          long num_channels, long num_pixels, long num_groups, long channels_last, long num_threads) {
    const Counts counts{num_samples, num_channels, num_pixels, num_groups};
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
    const long rows = num_samples * num_channels;
    number *sums = lines, *products = lines + rows, *slopes = lines + 2 * rows;
#pragma omp parallel num_threads(num_threads)
    {
        const Lanes lanes(maps, 4);
        sums_of_all(gradient, x, y, kept, table, sums, lanes, rows);
#pragma omp for schedule(static)
        for (long begin = 0; begin < num_channels; begin += BLOCK)
            mix_back(table, table + rows, sums, products, shares, outputs, weight, statistics, grad_statistics,
                     grad_weight, grad_bias,
                     grad_shares ? grad_shares + begin / BLOCK * num_groups * num_samples : nullptr, slopes,
                     counts, block_at(begin, num_channels));
        pass_all_on(gradient, x, y, kept, grad_x, table, slopes, lanes, rows);
    }
}

// The passes alone. `coefficients` are A and B, [2, N, C], or α, and ε and δ per pixel, [3, N, C].

extern "C" void row_moments(const value *x, number *table, long num_samples, long num_channels, long num_pixels,
                            long channels_last, long num_threads) {
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
#pragma omp parallel num_threads(num_threads)
    moments_of_all(x, table, Lanes(maps, 2), num_samples * num_channels, num_pixels);
}

extern "C" void scale_rows(const value *x, const value *added, value *y, const number *table, const number *coefficients,
                           long num_samples, long num_channels, long num_pixels, long channels_last, long rectifies,
                           long num_threads) {
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
#pragma omp parallel num_threads(num_threads)
    map_all(x, added, y, table, coefficients, Lanes(maps, 3), num_samples * num_channels, rectifies);
}

extern "C" void row_sums(const value *gradient, const value *x, const value *y, value *kept, const number *table,
                         number *sums, long num_samples, long num_channels, long num_pixels, long channels_last,
                         long num_threads) {
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
#pragma omp parallel num_threads(num_threads)
    sums_of_all(gradient, x, y, kept, table, sums, Lanes(maps, 3), num_samples * num_channels);
}

extern "C" void pass_rows_on(const value *gradient, const value *x, const value *y, const value *kept, value *grad_x,
                             const number *table, const number *coefficients, long num_samples, long num_channels,
                             long num_pixels, long channels_last, long num_threads) {
    const Layout maps(num_samples, num_channels, num_pixels, channels_last);
#pragma omp parallel num_threads(num_threads)
    pass_all_on(gradient, x, y, kept, grad_x, table, coefficients, Lanes(maps, 4), num_samples * num_channels);
}

extern "C" const char *compiler() {
#ifdef __clang__
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}
