//! The order in which NumPy shuffles: torch-fidelity divides pictures after `RandomState(2020).permutation`.
//!
//! Source: Matsumoto and Nishimura, 1998, MT19937; NumPy's legacy generator, whose bounded draws reject what lies above.

const SIZE: usize = 624;
const MIDDLE: usize = 397;

struct MersenneTwister {
    state: [u32; SIZE],
    at: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for i in 1..SIZE {
            let before = state[i - 1];
            // `i` is below 624.
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, at: SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.at == SIZE {
            for i in 0..SIZE {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + MIDDLE) % SIZE] ^ (joined >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in 0 to `largest`.
    fn at_most(&mut self, largest: u32) -> u32 {
        let mask = u32::MAX >> largest.leading_zeros(); // `largest` is at least 1
        loop {
            let draw = self.next() & mask;
            if draw <= largest {
                return draw;
            }
        }
    }
}

/// `numpy.random.RandomState(seed).permutation(count)`, for counts below 2³².
pub(super) fn permutation(count: usize, seed: u32) -> Vec<usize> {
    let mut draws = MersenneTwister::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        let largest = u32::try_from(i).unwrap_or(u32::MAX);
        order.swap(i, draws.at_most(largest) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_numpys() {
        assert_eq!(permutation(17, 2020), [4, 10, 1, 2, 9, 13, 16, 5, 15, 7, 12, 11, 14, 6, 3, 8, 0]);
        let long = permutation(5000, 2020); // more draws than the generator's state has numbers
        assert_eq!(
            (&long[..5], &long[4995..]),
            (&[2398, 2360, 3232, 27, 1246][..], &[1661, 2139, 3779, 4488, 864][..])
        );
        assert_eq!(long.iter().enumerate().map(|(at, value)| at * value).sum::<usize>(), 31_127_380_746);
        assert!(permutation(0, 1).is_empty());
    }
}
