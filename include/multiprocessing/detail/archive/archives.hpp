// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The two archives that users' serialize functions see, and the writer and reader behind them.
///
/// A message is read and written by message_writer and message_reader, which know all types
/// (memory.hpp). Only where a user's function is to be called do they make the cereal archive
/// around themselves: its tables cost more than a small message does.
///
/// Format: fixed-size values as in memory, counts as 64 bits, no type information.
/// I1  Every value takes at least one byte (an empty class, one of value 0). So a count that is
///     larger than the rest of the message is wrong, and nothing is allocated for it.
/// I2  No more is read than there is; lengths are copied before they are checked.
/// I3  Objects of users' types are nested at most max_depth deep.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cereal/cereal.hpp>
#include <cereal/types/atomic.hpp>
#include <cereal/types/string.hpp>

#include <multiprocessing/detail/archive/buffer.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

class message_writer;
class message_reader;

/// Room for a T that few messages need. How it ends is compiled where it is made.
template <class T>
class late {
public:
    late() = default;
    late(const late&) = delete;
    late& operator=(const late&) = delete;
    ~late() {
        if (end_) end_(room_);
    }

    explicit operator bool() const noexcept { return end_ != nullptr; }
    T* operator->() noexcept { return std::launder(reinterpret_cast<T*>(room_)); }
    T& operator*() noexcept { return *operator->(); }
    /// Once.
    template <class... Args>
    T& emplace(Args&&... args) {
        T* const made = ::new (static_cast<void*>(room_)) T(std::forward<Args>(args)...);
        end_ = [](std::byte* room) noexcept { std::launder(reinterpret_cast<T*>(room))->~T(); };
        return *made;
    }

private:
    alignas(T) std::byte room_[sizeof(T)];
    void (*end_)(std::byte*) noexcept = nullptr;
};

/// Objects within objects; a list of unique_ptr longer than that is better sent as a vector.
inline constexpr unsigned max_depth = 256;

/// Blocks from this size on are not copied into the buffer if they can stay in place (F8).
inline constexpr std::size_t stays_in_place = 4096;

/// What a user's `save` or `serialize` gets. `ar(a, b, c)` as in cereal, for all Sendable types.
class output_archive
    : public cereal::OutputArchive<output_archive, cereal::AllowEmptyClassElision> {
    using base = cereal::OutputArchive<output_archive, cereal::AllowEmptyClassElision>;

public:
    template <compiled = compiled::when_used>
    explicit output_archive(message_writer& to) : base(this), to_(to) {}

    template <class... Ts>
    output_archive& operator()(Ts&&... values);
    template <class T>
    output_archive& operator&(T&& value) {
        return (*this)(value);
    }
    template <class T>
    output_archive& operator<<(T&& value) {
        return (*this)(value);
    }

    /// Finds and calls the user's function, by cereal's rules.
    template <class T>
    void dispatch(const T& value) {
        base::operator()(value);
    }
    void saveBinary(const void* data, std::size_t size);

private:
    message_writer& to_;
};

/// What a user's `load` or `serialize` gets.
class input_archive : public cereal::InputArchive<input_archive, cereal::AllowEmptyClassElision> {
    using base = cereal::InputArchive<input_archive, cereal::AllowEmptyClassElision>;

public:
    template <compiled = compiled::when_used>
    explicit input_archive(message_reader& from) : base(this), from_(from) {}

    template <class... Ts>
    input_archive& operator()(Ts&&... values);
    template <class T>
    input_archive& operator&(T&& value) {
        return (*this)(value);
    }
    template <class T>
    input_archive& operator>>(T&& value) {
        return (*this)(value);
    }

    template <class T>
    void dispatch(T& value) {
        base::operator()(value);
    }
    void loadBinary(void* data, std::size_t size);

private:
    message_reader& from_;
};

/// Tells types apart by its address. Not const: linkers may merge constants.
template <class T>
inline char type_tag = 0;

using name_function = std::string_view (*)();

/// Writes values into a message_buffer.
class message_writer {
public:
    /// \param in_place  large blocks need not be copied: no user code runs while this writes
    template <compiled = compiled::when_used>
    message_writer(message_buffer& to, bool in_place, name_function name) noexcept
        : to_(to), in_place_(in_place), name_(name) {}

    /// Writes a value of any Sendable type.
    template <class T>
    void put(const T& value);

    void bytes(const void* data, std::size_t size) {
        if (size != 0) std::memcpy(to_.grow(size), data, size);
    }
    /// Bytes that belong to the value which is being written.
    template <compiled = compiled::when_used>
    void own_bytes(const void* data, std::size_t size) {
        if (size >= stays_in_place && in_place_)
            to_.refer(data, size);
        else
            bytes(data, size);
    }
    template <class T>
    void number(T value) {
        std::memcpy(to_.grow(sizeof value), &value, sizeof value);
    }
    void count(std::size_t n) { number(std::uint64_t{n}); }

    /// The number of a shared object in this message, and whether it is to follow here. Objects
    /// are told apart by address and type: a struct and its first member are two.
    template <class T>
    std::pair<std::uint32_t, bool> share(const std::shared_ptr<T>& object) {
        const char* const type = &type_tag<std::remove_const_t<T>>;
        if (!shared_) shared_.emplace();
        auto& objects = shared_->objects;
        std::uint32_t& first = shared_->first[object.get()];  // 0: none at this address yet
        for (std::uint32_t n = first; n != 0; n = objects[n - 1].next)
            if (objects[n - 1].type == type) return {n, false};
        // Kept until the end: another object at the same address would be taken for this one.
        objects.push_back({object, type, first});
        first = static_cast<std::uint32_t>(objects.size());
        return {first, true};
    }

    /// Calls f one level deeper (I3).
    template <class F>
    void nested(F&& f) {
        if (++depth_ > max_depth) fail("its objects are nested more than 256 deep");
        f();
        --depth_;
    }
    std::size_t size() const noexcept { return to_.size(); }
    template <compiled = compiled::when_used>
    output_archive& archive() {
        return archive_ ? *archive_ : archive_.emplace(*this);
    }

    [[noreturn, gnu::cold, gnu::noinline]] void fail(std::string_view why) const {
        throw SerializationError(std::string(name_()) + " can't be sent: " + std::string(why));
    }

private:
    struct shared_object {
        std::shared_ptr<const void> object;
        const char* type;
        std::uint32_t next;  // of the same address and another type
    };
    struct shared_objects {
        std::unordered_map<const void*, std::uint32_t> first;
        std::vector<shared_object> objects;  // number n is at n - 1
    };

    message_buffer& to_;
    bool in_place_;
    unsigned depth_ = 0;
    name_function name_;
    late<shared_objects> shared_;
    late<output_archive> archive_;
};

/// Reads values out of a message, which may be damaged or forged.
class message_reader {
public:
    template <compiled = compiled::when_used>
    message_reader(std::span<const std::byte> from, name_function name) noexcept
        : at_(from.data()), end_(from.data() + from.size()), size_(from.size()), name_(name) {}

    /// Reads a value of any Sendable type.
    template <class T>
    void get(T& value);

    void bytes(void* to, std::size_t size) {
        const std::byte* from = take(size);
        if (size != 0) std::memcpy(to, from, size);
    }
    /// The next bytes where they are, not aligned.
    const std::byte* take(std::size_t size) {
        if (size > left()) [[unlikely]]
            fail("it ends too early");
        return std::exchange(at_, at_ + size);
    }
    template <class T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }
    /// A number of elements that take at least `each` bytes.
    std::size_t count(std::size_t each = 1) {
        const auto n = number<std::uint64_t>();
        if (n > left() / each) [[unlikely]]
            fail("a number of elements in it is larger than what follows");
        return static_cast<std::size_t>(n);
    }
    /// A byte that is 0 or 1.
    bool flag() {
        const auto value = number<std::uint8_t>();
        if (value > 1) [[unlikely]]
            fail("a bool in it is neither 0 nor 1");
        return value != 0;
    }
    /// How many elements of this size to allocate for at once: what is left bounds it, whatever
    /// the count says.
    std::size_t worth_reserving(std::size_t count, std::size_t element_size) const noexcept {
        const std::size_t most = (8 * left() + 4096) / element_size;
        return count < most ? count : most;
    }

    template <class T>
    void share(const std::shared_ptr<T>& object) {
        shared_.push_back({object, &type_tag<T>});
    }
    /// The shared object of this number; null if it is the next new one.
    template <class T>
    std::shared_ptr<T> shared(std::uint32_t number) {
        if (number == shared_.size() + 1) return nullptr;
        if (number > shared_.size() || shared_[number - 1].second != &type_tag<T>)
            fail("a shared object in it is not there");
        return std::static_pointer_cast<T>(shared_[number - 1].first);
    }

    template <class F>
    void nested(F&& f) {
        if (++depth_ > max_depth) fail("its objects are nested more than 256 deep");
        f();
        --depth_;
    }
    std::size_t left() const noexcept { return static_cast<std::size_t>(end_ - at_); }
    void end() const {
        if (at_ != end_) [[unlikely]]
            fail(std::to_string(left()) + " bytes are left over");
    }
    template <compiled = compiled::when_used>
    input_archive& archive() {
        return archive_ ? *archive_ : archive_.emplace(*this);
    }

    [[noreturn, gnu::cold, gnu::noinline]] void fail(std::string_view why) const {
        throw SerializationError("a message of " + std::to_string(size_) + " bytes is not " +
                                 std::string(name_()) + ": " + std::string(why) +
                                 "; it was damaged, or sent as another type");
    }

private:
    const std::byte* at_;
    const std::byte* end_;
    std::size_t size_;
    unsigned depth_ = 0;
    name_function name_;
    std::vector<std::pair<std::shared_ptr<void>, const char*>> shared_;
    late<input_archive> archive_;
};

inline void output_archive::saveBinary(const void* data, std::size_t size) {
    to_.bytes(data, size);
}
inline void input_archive::loadBinary(void* data, std::size_t size) { from_.bytes(data, size); }

// What cereal itself puts into an archive without asking it: the result of save_minimal, and
// class versions. All else comes through operator().
template <class T>
requires std::is_arithmetic_v<T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const T& value) {
    ar.saveBinary(std::addressof(value), sizeof value);
}
template <class T>
requires std::is_arithmetic_v<T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, T& value) { ar(value); }
template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const cereal::BinaryData<T>& data) {
    ar(data);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, cereal::BinaryData<T>& data) {
    ar(data);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(output_archive& ar, cereal::NameValuePair<T>& pair) {
    ar(pair.value);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(input_archive& ar, cereal::NameValuePair<T>& pair) {
    ar(pair.value);
}

}  // namespace multiprocessing::detail

CEREAL_REGISTER_ARCHIVE(multiprocessing::detail::output_archive)
CEREAL_REGISTER_ARCHIVE(multiprocessing::detail::input_archive)
CEREAL_SETUP_ARCHIVE_TRAITS(multiprocessing::detail::input_archive,
                            multiprocessing::detail::output_archive)
