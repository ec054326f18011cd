// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Addresses of the program's constants and functions, in a form that holds in other processes of
/// the same program, wherever the loader put things there.

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/uio.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// FNV-1a, of text and of build-ids.
constexpr std::uint64_t fnv1a(std::string_view text) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) {
        hash ^= static_cast<unsigned char>(c);
        hash *= 0x100000001b3;
    }
    return hash;
}

/// An address in a loaded module (the program or a shared library), as it travels.
struct place {
    std::uint64_t module;  // hash of the module's build-id; without one, of its code
    std::uint64_t offset;  // from where the loader put the module

    friend bool operator==(const place&, const place&) = default;
};
static_assert(sizeof(place) == 16);

/// What a place must be, for who receives it.
enum class place_kind {
    constant,  // memory that nothing can write to: a forged place can't lead to forged contents
    code,      // executable
};

/// A program or shared library as the loader mapped it.
template <compiled When = compiled::when_used>
struct loaded_module {
    struct segment {
        std::uintptr_t begin, end;
        bool writable, executable;
    };

    std::uintptr_t base = 0;  // 0 for a program that is not position-independent
    std::uint64_t key = 0;
    std::string path;                // empty for the program; for messages only
    std::vector<segment> segments;   // what can be read, in the order of addresses
    std::uintptr_t relro_begin = 0;  // made read-only after relocation
    std::uintptr_t relro_end = 0;
    std::uintptr_t dynamic = 0;  // its dynamic section; 0 in a static program
    std::string build_id;        // empty if it was linked without
    const char* build_id_at = nullptr;

    bool contains(std::uintptr_t address) const noexcept { return segment_of(address) != nullptr; }

    /// Whether the `size` bytes at `address` are what `kind` says.
    bool holds(std::uintptr_t address, std::size_t size, place_kind kind) const noexcept {
        const segment* const s = segment_of(address);
        if (!s || s->end - address < size) return false;
        if (kind == place_kind::code) return s->executable && !s->writable;
        if (!s->writable) return true;
        if (relro_begin == relro_end) return true;  // linked with -z norelro: no way to tell
        return address >= relro_begin && address < relro_end && relro_end - address >= size;
    }

    bool same_as(const loaded_module& other) const noexcept {
        return base == other.base && key == other.key && dynamic == other.dynamic &&
               build_id_at == other.build_id_at && path == other.path;
    }

private:
    const segment* segment_of(std::uintptr_t address) const noexcept {
        for (const segment& s : segments)
            if (address >= s.begin && address < s.end) return &s;
        return nullptr;
    }
};

/// Finds the build-id in the notes between two addresses.
template <compiled When = compiled::when_used>
void read_notes(std::uintptr_t at, std::uintptr_t end, std::size_t align, loaded_module<When>& m) {
    const auto padded = [align](std::size_t n) { return (n + align - 1) & ~(align - 1); };
    ElfW(Nhdr) note;
    while (end - at > sizeof note) {
        std::memcpy(&note, reinterpret_cast<const void*>(at), sizeof note);
        const auto* const name = reinterpret_cast<const char*>(at) + sizeof note;
        const std::size_t before = padded(sizeof note + note.n_namesz);
        const std::size_t whole = padded(before + note.n_descsz);
        if (before + note.n_descsz > end - at) return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            std::memcmp(name, "GNU", 4) == 0) {
            m.build_id_at = reinterpret_cast<const char*>(at) + before;
            m.build_id.assign(m.build_id_at, note.n_descsz);
            return;
        }
        if (whole >= end - at) return;
        at += whole;
    }
}

/// Reads a module from what the loader says about it.
template <compiled When = compiled::when_used>
loaded_module<When> read_module(const dl_phdr_info& info) {
    loaded_module<When> m;
    m.base = info.dlpi_addr;
    m.path = info.dlpi_name ? info.dlpi_name : "";
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = info.dlpi_phdr[i];
        const std::uintptr_t begin = m.base + header.p_vaddr;
        const std::uintptr_t end = begin + header.p_memsz;
        const auto allows = [&header](std::uint32_t flag) { return (header.p_flags & flag) != 0; };
        if (header.p_type == PT_LOAD && allows(PF_R))
            m.segments.push_back({begin, end, allows(PF_W), allows(PF_X)});
        else if (header.p_type == PT_GNU_RELRO)
            m.relro_begin = begin, m.relro_end = end;
        else if (header.p_type == PT_DYNAMIC)
            m.dynamic = begin;
        else if (header.p_type == PT_NOTE && !m.build_id_at)
            read_notes(begin, end, header.p_align == 8 ? 8 : 4, m);
    }
    if (m.build_id_at) {
        m.key = fnv1a(m.build_id);
        return m;
    }
    // Linked with --build-id=none: the code itself names it, eight bytes a step.
    m.key = 0x9e3779b97f4a7c15;
    for (const auto& s : m.segments) {
        if (!s.executable || s.writable) continue;
        for (std::uintptr_t at = s.begin; s.end - at >= 8; at += 8) {
            std::uint64_t word;
            std::memcpy(&word, reinterpret_cast<const void*>(at), sizeof word);
            m.key = (std::rotl(m.key, 23) ^ word) * 0x100000001b3;
        }
    }
    return m;
}

/// The modules of this process, read at any time by any thread without a lock.
///
/// Asking the loader takes its lock, and in a forked child that lock may be held for ever by a
/// thread that the child does not have. So the table is made before the first fork and brought up
/// to date by a fork hook before each. Otherwise, when an address or a key is unknown,
/// I1  the process that made the table asks the loader whether it loaded anything since;
/// I2  a forked child compares the loader's list, read without its lock, with what it was when the
///     child began, and asks only if it differs: then the child itself has loaded something, so
///     that the lock is free, or held by a thread that the child has.
/// I3  Entries are never changed or freed, so that a search needs no lock; a module that comes back
///     to where it was finds its entry again. An entry may outlive its module: is_there() asks,
///     without a lock, before each use.
template <compiled When = compiled::when_used>
class MP_EXPORT module_table {
    using loaded_module = detail::loaded_module<When>;

public:
    /// Never destroyed. The first use must not be in a forked child.
    static module_table& get() { return only_one<module_table>::get(); }

    module_table(const module_table&) = delete;
    module_table& operator=(const module_table&) = delete;

    /// The travelling form of an address of this program's.
    /// \throws Error if it lies in no module: code made at run time has no name elsewhere
    place name_of(const void* pointer) {
        const auto address = reinterpret_cast<std::uintptr_t>(pointer);
        for (bool again = true;; again = false) {
            for (const entry* e = first(); e; e = e->next)
                if (e->what.contains(address) && is_there(*e, address))
                    return {e->what.key, address - e->what.base};
            if (!again || !refresh())
                throw Error(
                    "can't send an address that lies in no module of this program: what is "
                    "made at run time has no name in other processes");
        }
    }

    /// The address that `at` names here, with `size` bytes behind it that are what `kind` says.
    /// \throws UnknownCallable if the module is not here, or has no such thing there
    const void* find(place at, std::size_t size, place_kind kind) {
        for (bool again = true;; again = false) {
            const entry* refused = nullptr;
            for (const entry* e = first(); e; e = e->next) {
                if (e->what.key != at.module) continue;
                const std::uintptr_t address = e->what.base + at.offset;  // may wrap: checked next
                if (!e->what.holds(address, size, kind))
                    refused = e;
                else if (is_there(*e, address))
                    return reinterpret_cast<const void*>(address);
            }
            if (refused) throw UnknownCallable(no_such_place(at, refused->what, kind));
            if (!again || !refresh()) throw UnknownCallable(not_loaded(at));
        }
    }

private:
    friend only_one<module_table>;
    struct entry {
        loaded_module what;
        const entry* next;
    };

    module_table() {
        process_identity& identity = process_identity::get();
        made_in_ = identity.generation.load(std::memory_order_relaxed);  // this thread's own fork
#if __GLIBC_PREREQ(2, 35)
        static constexpr char here = 0;
        dl_find_object found;
        if (::_dl_find_object(const_cast<char*>(&here), &found) == 0)
            for (first_of_loader_ = found.dlfo_link_map; first_of_loader_->l_prev;)
                first_of_loader_ = first_of_loader_->l_prev;
#endif
        scan();
        static constexpr fork_hooks hooks{
            .before =
                [] {
                    if (module_table* const table = only_one<module_table>::made)
                        table->before_fork();
                },
            .in_child =
                [] {
                    if (module_table* const table = only_one<module_table>::made) table->in_child();
                }};
        identity.hook(fork_hooks::modules, hooks);
    }
    ~module_table() {  // of one that came second
        for (const entry* e = first(); e;) delete std::exchange(e, e->next);
    }

    const entry* first() const noexcept {
        return entries_.load(std::memory_order_acquire);  // (A) with (B): the entries' contents
    }

    /// Asks the loader again, where that is safe and can bring something new (I1, I2).
    /// \return whether it did
    bool refresh() {
        const auto generation = process_identity::get().generation.load(std::memory_order_relaxed);
        const bool changed = generation == made_in_ ? loads_so_far() != loads_seen_
                                                    : list_hash(read_checked) != list_seen_;
        if (changed) scan();
        return changed;
    }

    void scan() {
        std::vector<loaded_module> found;
        const std::uint64_t list = list_hash(read_checked);
        const std::uint64_t loads = loads_so_far();
        ::dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void* out) {
                loaded_module m = read_module<When>(*info);
                if (!m.segments.empty())
                    static_cast<std::vector<loaded_module>*>(out)->push_back(std::move(m));
                return 0;
            },
            &found);

        const std::lock_guard lock(process_identity::get().tables);
        const entry* head = entries_.load(std::memory_order_relaxed);  // written under this lock
        // The loader names the program first: pushed last, it is met first.
        for (auto m = found.rbegin(); m != found.rend(); ++m) {
            const entry* known = head;
            while (known && !known->what.same_as(*m)) known = known->next;
            if (!known) head = new entry{std::move(*m), head};
        }
        entries_.store(head, std::memory_order_release);  // (B)
        // Relaxed: a stale value costs one more scan.
        list_seen_.store(list, std::memory_order_relaxed);
        loads_seen_.store(loads, std::memory_order_relaxed);
    }

    /// How often the loader has loaded or closed a module. Takes its lock.
    static std::uint64_t loads_so_far() {
        std::uint64_t count = 0;
        ::dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void* out) {
                *static_cast<std::uint64_t*>(out) = info->dlpi_adds + info->dlpi_subs;
                return 1;
            },
            &count);
        return count;
    }

    /// Whether the entry's module is what lies at `address` now. Takes no lock.
    static bool is_there([[maybe_unused]] const entry& e,
                         [[maybe_unused]] std::uintptr_t address) noexcept {
#if __GLIBC_PREREQ(2, 35)
        const loaded_module& m = e.what;
        dl_find_object found;
        if (::_dl_find_object(reinterpret_cast<void*>(address), &found) != 0) return false;
        const link_map& now = *found.dlfo_link_map;
        return now.l_addr == m.base && reinterpret_cast<std::uintptr_t>(now.l_ld) == m.dynamic &&
               (!m.build_id_at ||
                std::memcmp(m.build_id_at, m.build_id.data(), m.build_id.size()) == 0);
#else
        return true;  // can't be told without a lock there: such plugins must stay open
#endif
    }

    /// A hash of the loader's list of modules, read without its lock. A list that another thread
    /// is changing may give any value: then its lock is alive, and asking is safe.
    template <class Read>
    std::uint64_t list_hash(Read read) const noexcept {
        std::uint64_t hash = 0;
        link_map now;
        const link_map* at = first_of_loader_;
        for (int steps = 0; at && steps < 10'000 && read(at, now); ++steps, at = now.l_next)
            for (const std::uint64_t part :
                 {reinterpret_cast<std::uint64_t>(at), std::uint64_t{now.l_addr},
                  reinterpret_cast<std::uint64_t>(now.l_ld)})
                hash = (std::rotl(hash, 23) ^ part) * 0x9e3779b97f4a7c15;
        return hash;
    }

    /// Through the kernel: another thread may be closing this module.
    static bool read_checked(const link_map* from, link_map& to) noexcept {
        const iovec local{&to, sizeof to};
        const iovec remote{const_cast<link_map*>(from), sizeof to};
        return ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0) ==
               static_cast<ssize_t>(sizeof to);
    }

    /// The fork hook in the parent. Cost: 0.1 us when nothing was loaded.
    void before_fork() noexcept {
        try {
            refresh();
        } catch (...) {  // no memory: the child will not know the newest module
        }
    }

    /// The fork hook in the child: there is one thread.
    void in_child() noexcept {
        list_seen_.store(list_hash([](const link_map* from, link_map& to) {
                             to = *from;
                             return true;
                         }),
                         std::memory_order_relaxed);
    }

    static std::string hex(std::uint64_t value) {
        std::array<char, 24> text;
        std::snprintf(text.data(), text.size(), "%#llx", static_cast<unsigned long long>(value));
        return text.data();
    }

    static std::string not_loaded(place at) {
        return "a message calls into module " + hex(at.module) + ", which process " +
               std::to_string(::getpid()) +
               " does not have: it is of another build of the program, or a plugin, which must be "
               "opened here before the message is received";
    }

    static std::string no_such_place(place at, const loaded_module& m, place_kind kind) {
        return "a message names offset " + hex(at.offset) + " of " +
               (m.path.empty() ? std::string("the program") : m.path) + ", where there is no " +
               (kind == place_kind::code ? "code" : "constant") + ": the message is malformed";
    }

    // Under process_identity::tables, which is held over a fork.
    std::atomic<const entry*> entries_{nullptr};
    std::atomic<std::uint64_t> loads_seen_{0};
    std::atomic<std::uint64_t> list_seen_{0};
    std::uint64_t made_in_ = 0;  // generation of the process
    const link_map* first_of_loader_ = nullptr;
};

}  // namespace multiprocessing::detail
