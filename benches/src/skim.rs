//! Reading no more of a response than an ACK needs, so that the load generator is not what is measured.

/// What was read of a response of either variant: their field numbers agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// `version_info`, or the system's.
    pub version: String,
    /// `nonce`.
    pub nonce: String,
    /// How many resources it has.
    pub resources: usize,
    /// How many bytes it has.
    pub size: usize,
}

const VERSION: u64 = 1;
const RESOURCES: u64 = 2;
const NONCE: u64 = 5;

/// Takes a stream's bytes in pieces of any size, and keeps nothing but what it is in the middle of.
#[derive(Debug, Default)]
pub struct Skimmer {
    at: At,
    /// The header, or the number, that is being read, and how much of it was.
    number: u64,
    digits: u32,
    /// What is left of the message.
    left: usize,
    response: Response,
    text: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    Header,
    Tag,
    Varint,
    Length(u64),
    Field(u64, usize),
}

impl Skimmer {
    /// Reads on, and calls `each` for every response that is complete.
    pub fn skim(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Response)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let At::Field(field, length) = self.at {
                let (now, later) = bytes.split_at(length.min(bytes.len()));
                self.field(field, length - now.len(), now);
                bytes = later;
            } else {
                self.byte(byte);
                bytes = rest;
            }
            if self.left == 0 && !matches!(self.at, At::Header) {
                each(&self.response);
                *self = Self { text: std::mem::take(&mut self.text), ..Self::default() };
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        if let At::Header = self.at {
            // The first of the five says whether it is compressed, and is shifted out.
            self.number = self.number << 8 & 0xffff_ffff | u64::from(byte);
            self.digits += 1;
            if self.digits == 5 {
                self.left = usize::try_from(self.number).unwrap_or(usize::MAX);
                self.response.size = self.left;
                self.enter(At::Tag);
            }
            return;
        }
        self.left -= 1;
        self.number |= u64::from(byte & 0x7f) << self.digits.min(63);
        self.digits += 7;
        if byte & 0x80 != 0 {
            return;
        }
        let number = self.number;
        self.enter(match self.at {
            At::Tag if number & 7 == 0 => At::Varint,
            At::Tag => At::Length(number >> 3),
            At::Length(field) if number > 0 => {
                At::Field(field, usize::try_from(number).unwrap_or(usize::MAX))
            }
            _ => At::Tag,
        });
        if let At::Field(RESOURCES, _) = self.at {
            self.response.resources += 1;
        }
    }

    fn field(&mut self, field: u64, later: usize, bytes: &[u8]) {
        self.left = self.left.saturating_sub(bytes.len());
        let text = match field {
            VERSION => Some(&mut self.response.version),
            NONCE => Some(&mut self.response.nonce),
            _ => None,
        };
        if let Some(text) = text {
            self.text.extend_from_slice(bytes);
            if later == 0 {
                *text = String::from_utf8_lossy(&self.text).into_owned();
                self.text.clear();
            }
        }
        self.at = At::Field(field, later);
        if later == 0 {
            self.enter(At::Tag);
        }
    }

    fn enter(&mut self, at: At) {
        (self.at, self.number, self.digits) = (at, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{self, Variant};

    #[test]
    fn responses_are_read_in_pieces_of_any_size() {
        for variant in [Variant::Delta, Variant::Sotw] {
            let clusters: Vec<_> = (0..3).map(|i| cluster::cluster(i, 7)).collect();
            let bytes =
                [cluster::response(variant, &clusters), cluster::response(variant, &[])].concat();
            for size in 1..bytes.len() {
                let (mut skimmer, mut read) = (Skimmer::default(), Vec::new());
                for piece in bytes.chunks(size) {
                    skimmer.skim(piece, |response| read.push(response.clone()));
                }
                let [full, empty] = &read[..] else { panic!("{read:?} in pieces of {size}") };
                assert_eq!((full.resources, &*full.nonce), (3, "1"));
                assert_eq!((empty.resources, &*empty.version), (0, "0123456789abcdef"));
            }
        }
    }
}
