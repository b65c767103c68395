// Philox of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), ten rounds.
#pragma once

#include <array>
#include <cstdint>

namespace fastsal {

template <class Word, class Wide, Word First, Word Second, Word FirstStep, Word SecondStep>
std::array<Word, 4> philox(std::array<Word, 2> key, std::array<Word, 4> counter) {
  constexpr int bits = 8 * sizeof(Word);
  for (int round = 0; round < 10; ++round) {
    const Wide a = static_cast<Wide>(counter[0]) * First, b = static_cast<Wide>(counter[2]) * Second;
    counter = {static_cast<Word>(static_cast<Word>(b >> bits) ^ counter[1] ^ key[0]), static_cast<Word>(b),
               static_cast<Word>(static_cast<Word>(a >> bits) ^ counter[3] ^ key[1]), static_cast<Word>(a)};
    key[0] += FirstStep;
    key[1] += SecondStep;
  }
  return counter;
}

constexpr auto philox4x32 = philox<uint32_t, uint64_t, 0xD2511F53u, 0xCD9E8D57u, 0x9E3779B9u, 0xBB67AE85u>;

__extension__ typedef unsigned __int128 uint128;
constexpr auto philox4x64 = philox<uint64_t, uint128, 0xD2E7470EE14C6C93u, 0xCA5A826395121157u, 0x9E3779B97F4A7C15u,
                                   0xBB67AE8584CAA73Bu>;

}  // namespace fastsal
