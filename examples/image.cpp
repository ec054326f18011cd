// SPDX-License-Identifier: BSL-1.0
//
// Draws the Mandelbrot set. The image is one SharedArray: each task of the pool gets a handle of
// it, fills one row in place and sends back how much of that row belongs to the set; no pixel is
// copied between processes. Writes a PPM file, which most image viewers show, and prints
//
//     mandelbrot.ppm: 900 x 600 pixels, 25.5% of them black, drawn by 2 processes
//
// Usage: image [FILE]

#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <multiprocessing/pool.hpp>
#include <multiprocessing/shared_memory.hpp>

namespace mp = multiprocessing;

constexpr int width = 900, height = 600, most_steps = 200;

struct Pixel {
    std::uint8_t red, green, blue;
};

struct Row {
    int black;
    pid_t drawn_by;
};

Pixel color(std::complex<double> c) {
    std::complex<double> z;
    for (int step = 0; step < most_steps; ++step) {
        z = {z.real() * z.real() - z.imag() * z.imag() + c.real(),
             2 * z.real() * z.imag() + c.imag()};
        if (std::norm(z) > 4) {
            const auto light = [step](int slope) {
                return static_cast<std::uint8_t>(55 + (step * slope) % 200);
            };
            return {light(3), light(7), light(13)};
        }
    }
    return {0, 0, 0};
}

Row draw(const mp::SharedArray<Pixel>& image, int y) {
    Row row{0, ::getpid()};
    for (int x = 0; x < width; ++x) {
        const Pixel pixel = color({-2.2 + 3.0 * x / width, -1.0 + 2.0 * y / height});
        image[static_cast<std::size_t>(y * width + x)] = pixel;
        if (pixel.red == 0) ++row.black;
    }
    return row;
}

int main(int argc, char** argv) try {
    const std::string file = argc > 1 ? argv[1] : "mandelbrot.ppm";
    const mp::SharedArray<Pixel> image(std::size_t{width} * height);
    std::vector<int> rows(height);
    std::iota(rows.begin(), rows.end(), 0);

    mp::Pool pool;
    int black = 0;
    std::set<pid_t> drawers;
    for (const Row& row : pool.map(mp::bind(draw, image), rows)) {
        black += row.black;
        drawers.insert(row.drawn_by);
    }

    std::ofstream out(file, std::ios::binary);
    out << "P6\n" << width << ' ' << height << "\n255\n";
    out.write(reinterpret_cast<const char*>(image.data()),
              static_cast<std::streamsize>(image.size() * sizeof(Pixel)));
    if (!out.flush()) throw std::runtime_error("can't write " + file);
    std::printf("%s: %d x %d pixels, %.1f%% of them black, drawn by %zu processes\n", file.c_str(),
                width, height, 100.0 * black / (width * height), drawers.size());
} catch (const std::exception& error) {
    std::fprintf(stderr, "image: %s\n", error.what());
    return 1;
}
