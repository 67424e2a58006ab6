//! Inputs out of other inputs.

/// Texts that decide something somewhere.
const WORDS: [&[u8]; 34] = [
    b"/",
    b"//",
    b"..",
    b"/../",
    b"%2f",
    b"\0",
    b"\n",
    b" ",
    b"*",
    b"**",
    b"blobs",
    b"compressed-blobs",
    b"uploads",
    b"/blobs/",
    b"operations",
    b"team",
    b"\xff",
    b"\xc0\xaf",
    b"\xe2\x80\x8b",
    b"\x0a\x04team",
    b"\x0a\x05other",
    b"\x0a\x00",
    b"\x12\x00",
    b"\x8a\x00",
    b"\x0b\x0c",
    b"\0\0\0\0\0",
    b"\x80\x80\x80\x80\x00",
    b"= ",
    b"[[rules]]\n",
    b"certificate = \"any\"\n",
    b"allow = [\"pull\"]\n",
    b"deny = [\"pull\"]\n",
    b"-1",
    b"99999999999999999999",
];

/// A source of mutations, the same for the same seed.
pub(super) struct Mutation {
    state: u64,
    /// Inputs to take pieces of.
    others: Vec<Vec<u8>>,
}

impl Mutation {
    pub(super) fn new(seed: u64, others: &[Vec<u8>]) -> Mutation {
        Mutation {
            state: seed | 1,
            others: others.to_vec(),
        }
    }

    /// Whether one of so many chances came up.
    pub(super) fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// One of these inputs, changed in one place or in a few.
    pub(super) fn of(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool[self.below(pool.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (from, to) = self.range(input.len());
        match self.below(9) {
            0 if from < input.len() => input[from] ^= 1 << self.below(8),
            1 if from < input.len() => {
                let values = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'\n'];
                input[from] = values[self.below(values.len())];
            }
            2 if from < input.len() => input[from] = self.next() as u8,
            3 => drop(input.drain(from..to)),
            // A piece twice: a field, a component, a table.
            4 => {
                let piece = input[from..to].to_vec();
                input.splice(to..to, piece);
            }
            5 => {
                let piece = input[from..to].to_vec();
                let (at, _) = self.range(input.len());
                input.splice(at..at, piece);
            }
            6 => {
                let other = self.below(self.others.len());
                let (begin, end) = self.range(self.others[other].len());
                let piece = self.others[other][begin..end].to_vec();
                input.splice(from..to, piece);
            }
            7 => {
                let bytes: Vec<u8> = (0..=self.below(8)).map(|_| self.next() as u8).collect();
                input.splice(from..from, bytes);
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let to = if self.chance(2) { from } else { to };
                input.splice(from..to, word.iter().copied());
            }
        }
    }

    /// A range within so many bytes, short more often than long.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let most = if self.chance(4) { length } else { 12 };
        let to = (from + self.below(most + 1)).min(length);
        (from, to)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }
}

/// Makes the prefix of a request stream that of one message with all that follows, behind the two bytes of the target.
pub(super) fn mend_prefix(input: &mut [u8]) {
    if let Some(length) = input.len().checked_sub(7) {
        input[2] = 0;
        input[3..7].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
}
