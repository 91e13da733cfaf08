//! Places of endpoints by the index of their device, for one look instead of a hash; two devices whose indices share a
//! place have the hash.

use super::Bank;

/// Places in one bank: more than a node has pods.
const PER_BANK: u32 = 4096;
/// Places in both.
pub const COUNT: u32 = 2 * PER_BANK;

/// The place of a device.
#[inline(always)]
pub const fn of(bank: Bank, device: u32) -> u32 {
    bank.index() * PER_BANK + device % PER_BANK
}

/// All places of a bank.
pub fn all(bank: Bank) -> core::ops::Range<u32> {
    let first = bank.index() * PER_BANK;
    first..first + PER_BANK
}
