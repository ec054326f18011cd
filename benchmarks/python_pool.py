# SPDX-License-Identifier: BSL-1.0
"""python_pool.py (pool|executor) WHAT: figures as those of pool.cpp, of Python's Pool(2) and
ProcessPoolExecutor(2)."""

import array
import concurrent.futures
import multiprocessing
import statistics
import sys
import time


def square(x):
    return x * x


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def one_ms(x):
    busy(0.001)
    return x


def uneven(x):
    busy(1e-5 if x < 10_000 else 1e-2)
    return x


def scaled(v):
    return v


def seconds(f):
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def main():
    who, what = sys.argv[1:]
    context = multiprocessing.get_context("fork")
    if who == "pool":
        make = lambda: context.Pool(2)
        submit = lambda pool, f, x: pool.apply_async(f, (x,))
        get = lambda result: result.get()
        mapped = lambda pool, f, data: pool.map(f, data)
    else:
        make = lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
        submit = lambda pool, f, x: pool.submit(f, x)
        get = lambda result: result.result()
        mapped = lambda pool, f, data: list(pool.map(f, data, chunksize=max(1, len(data) // 8)))

    def opened():
        with make() as pool:
            get(submit(pool, square, 1))

    if what == "open":
        print(1e3 * statistics.median(seconds(opened) for _ in range(5)))
        return
    with make() as pool:
        get(submit(pool, square, 1))
        if what == "apply":
            times = [seconds(lambda: get(submit(pool, square, i))) for i in range(1000)]
            print(1e6 * statistics.median(times))
        elif what == "submit":
            n = 10_000
            print(1e6 / n * seconds(
                lambda: [get(r) for r in [submit(pool, square, i) for i in range(n)]]))
        elif what in ("map5", "map6"):
            data = list(range(10 ** int(what[-1])))
            print(1e3 * seconds(lambda: mapped(pool, square, data)))
        elif what == "sleepy":
            print(100 * 0.5 / seconds(lambda: mapped(pool, one_ms, range(1000))))
        elif what == "skewed":
            print(100 * 0.55 / seconds(lambda: mapped(pool, uneven, range(10_100))))
        elif what == "vectors":
            data = [array.array("d", bytes(8_000_000)) for _ in range(64)]
            print(1e3 / 64 * seconds(lambda: mapped(pool, scaled, data)))


main()
