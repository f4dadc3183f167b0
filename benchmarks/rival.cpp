// Label-noise SGD on a deep factorization as one would write it in C++: -O3 -march=native, sizes known to the compiler.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

constexpr int OUT = D_OUT, IN = D_IN, DEPTH = LAYERS, WIDE = OUT > IN ? OUT : IN;
constexpr int height(int j) { return j == DEPTH ? OUT : WIDE; }  // of layer j = 1 ... DEPTH
constexpr int width(int j) { return j == 1 ? IN : WIDE; }

static uint64_t state[2];
static inline uint64_t next() {  // xoroshiro128+
    uint64_t a = state[0], b = state[1], sum = a + b;
    b ^= a;
    state[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
    state[1] = b << 37 | b >> 27;
    return sum;
}
static inline float uniform() { return (float)((next() >> 40) + 1) * 0x1p-24f; }

// rows (n, OUT * IN), labels (n), layers one after the other; takes `steps` steps in place.
extern "C" void train(const float* rows, const float* labels, int n, float* layers, int batch, float rate, float noise,
                      long steps, uint64_t seed) {
    state[0] = seed * 0x9E3779B97F4A7C15u + 1, state[1] = ~seed;
    alignas(64) static float products[DEPTH + 1][WIDE * WIDE], here[WIDE * WIDE], below[WIDE * WIDE], g[OUT * IN];
    float* w[DEPTH + 1] = {nullptr, layers};
    for (int j = 2; j <= DEPTH; j++) w[j] = w[j - 1] + height(j - 1) * width(j - 1);
    for (long step = 0; step < steps; step++) {
        std::copy_n(w[1], height(1) * IN, products[1]);
        for (int j = 2; j <= DEPTH; j++) {  // P_j = W_j P_{j-1}
            float* p = products[j];
            std::fill_n(p, height(j) * IN, 0.0f);
            for (int i = 0; i < height(j); i++)
                for (int k = 0; k < width(j); k++)
                    for (int c = 0; c < IN; c++) p[i * IN + c] += w[j][i * width(j) + k] * products[j - 1][k * IN + c];
        }
        std::fill_n(g, OUT * IN, 0.0f);
        for (int b = 0; b < batch; b++) {
            int index = (int)((next() >> 32) * (uint64_t)n >> 32);
            const float *a = rows + (long)index * OUT * IN, *m = products[DEPTH];
            float total = 0;
            for (int c = 0; c < OUT * IN; c++) total += a[c] * m[c];
            float xi = std::sqrt(-2 * std::log(uniform())) * std::cos(6.2831853f * uniform());
            float share = 2.0f / batch * (total - labels[index] + noise * xi);
            for (int c = 0; c < OUT * IN; c++) g[c] += share * a[c];
        }
        std::copy_n(g, OUT * IN, here);
        for (int j = DEPTH; j >= 1; j--) {  // H_{j-1} = W_j^T H_j, then W_j -= eta H_j P_{j-1}^T
            if (j == 1) {
                for (int c = 0; c < height(1) * IN; c++) w[1][c] -= rate * here[c];
                break;
            }
            std::fill_n(below, width(j) * IN, 0.0f);
            for (int i = 0; i < height(j); i++)
                for (int k = 0; k < width(j); k++) {
                    float dot = 0, weight = w[j][i * width(j) + k];
                    for (int c = 0; c < IN; c++) {
                        below[k * IN + c] += weight * here[i * IN + c];
                        dot += here[i * IN + c] * products[j - 1][k * IN + c];
                    }
                    w[j][i * width(j) + k] -= rate * dot;
                }
            std::copy_n(below, width(j) * IN, here);
        }
    }
}
