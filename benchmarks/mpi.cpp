// SPDX-License-Identifier: BSL-1.0
//
// mpirun -n 2 mpi (throughput|round_trip) BYTES SECONDS: as the programs of these names, by
// MPI_Send and MPI_Recv between two ranks.

#define OMPI_SKIP_MPICXX  // the C++ names of MPI-2 want a library of their own
#include <mpi.h>

#include "support.hpp"

namespace {

double throughput(int rank, std::vector<char>& message, double seconds) {
    const int size = static_cast<int>(message.size());
    MPI_Barrier(MPI_COMM_WORLD);
    const std::int64_t begin = bench::now();
    if (rank == 0) {
        const int between_looks = size > 4096 ? 1 : 32;
        while (static_cast<double>(bench::now() - begin) < seconds * 1e9)
            for (int i = 0; i < between_looks; ++i)
                MPI_Send(message.data(), size, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
        message[0] = 1;
        MPI_Send(message.data(), size, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
        return 0;
    }
    double got = 0;
    for (;; ++got) {
        MPI_Recv(message.data(), size, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (message[0] != 0) break;
    }
    return got * 1e9 / static_cast<double>(bench::now() - begin);
}

double round_trip(int rank, std::vector<char>& message, double seconds) {
    const int size = static_cast<int>(message.size());
    std::vector<std::int64_t> times;
    MPI_Barrier(MPI_COMM_WORLD);
    const std::int64_t begin = bench::now();
    for (std::int64_t before = begin; message[0] == 0;) {
        const auto send = [&] {
            MPI_Send(message.data(), size, MPI_CHAR, !rank, 0, MPI_COMM_WORLD);
        };
        const auto receive = [&] {
            MPI_Recv(message.data(), size, MPI_CHAR, !rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        };
        if (rank == 0) {
            receive();
            send();
        } else {
            message[0] = static_cast<double>(before - begin) > seconds * 1e9;
            send();
            receive();
            const std::int64_t after = bench::now();
            times.push_back(after - before);
            before = after;
        }
    }
    return rank == 0 ? 0 : static_cast<double>(bench::median(times)) / 1e3;
}

}  // namespace

int main(int count, char** arguments) {
    return bench::program([&] {
        MPI_Init(&count, &arguments);
        int rank;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        bench::placement("two").settle(static_cast<std::size_t>(rank));
        std::vector<char> message(std::stoul(arguments[2]));
        const double seconds = std::stod(arguments[3]);
        const double result = std::string(arguments[1]) == "throughput"
                                  ? throughput(rank, message, seconds)
                                  : round_trip(rank, message, seconds);
        if (rank == 1) std::printf("%.6g\n", result);
        MPI_Finalize();
    });
}
