//! The kernel's type information (BTF): ids of functions and offsets of members.
//! Layout: Documentation/bpf/btf.rst.

use chaos_common::layout::{MEMBERS, SIGNAL_MEMBERS};
use std::{collections::HashMap, fs};

/// What is needed of it.
#[derive(Debug)]
pub struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    functions: HashMap<Box<[u8]>, u32>,
    /// Places of all types, by id.
    places: Vec<usize>,
    structs: HashMap<Box<[u8]>, Struct>,
}

#[derive(Clone, Copy, Debug)]
struct Struct {
    members: usize,
    count: usize,
    bitfields: bool,
}

impl Struct {
    /// The structure or union whose record begins at `members - 12`.
    fn new(info: u32, members: usize) -> Self {
        Self { members, count: (info & 0xffff) as usize, bitfields: info >> 31 == 1 }
    }
}

const HEADER_MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
/// Further structures whose members are asked for.
const STRUCTS: [&str; 3] = ["task_struct", "thread_info", "signal_struct"];
/// Anonymous structures within each other that are looked into.
const NESTING_MAX: u32 = 8;

impl KernelTypes {
    /// Reads it from sysfs. `None` where there is none or where it cannot be understood.
    pub fn read() -> Option<Self> {
        Self::parse(fs::read(super::kernel::BTF_PATH).ok()?)
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
        if data.get(..2)? != HEADER_MAGIC.to_le_bytes() {
            return None;
        }
        let header = word(4)? as usize;
        let (types, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        let text = |offset: u32| -> Option<&[u8]> {
            let rest = data.get(strings + offset as usize..)?;
            rest.split(|byte| *byte == 0).next()
        };
        let wanted = |name: &[u8]| {
            let mut names =
                STRUCTS.iter().chain(MEMBERS.iter().chain(&SIGNAL_MEMBERS).map(|(structure, _)| structure));
            names.any(|known| known.as_bytes() == name)
        };
        let mut functions = HashMap::new();
        let mut places = vec![0];
        let mut structs = HashMap::new();
        let (mut at, end) = (types, types + types_len);
        for id in 1.. {
            if at >= end {
                break;
            }
            let (name, info) = (word(at)?, word(at + 4)?);
            let (count, kind) = ((info & 0xffff) as usize, info >> 24 & 0x1f);
            places.push(at);
            at += 12;
            match kind {
                KIND_FUNC => {
                    functions.entry(text(name)?.into()).or_insert(id);
                }
                KIND_STRUCT if wanted(text(name)?) => {
                    structs.entry(text(name)?.into()).or_insert(Struct::new(info, at));
                }
                _ => {}
            }
            at += match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
        }
        Some(Self { strings, functions, places, structs, data })
    }

    /// Id of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name.as_bytes()).copied()
    }

    /// Byte offset of a member of a known structure, its own or one of an anonymous part.
    pub fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let structure = self.structs.get(structure.as_bytes())?;
        self.offset_in(*structure, member.as_bytes(), NESTING_MAX)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.data.get(at..at + 4)?.try_into().ok()?))
    }

    fn offset_in(&self, structure: Struct, member: &[u8], nesting: u32) -> Option<u32> {
        (0..structure.count).find_map(|index| {
            let at = structure.members + 12 * index;
            let name = self.data.get(self.strings + self.word(at)? as usize..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let bits = if structure.bitfields { self.word(at + 8)? & 0xff_ffff } else { self.word(at + 8)? };
            if name == member {
                return Some(bits / 8);
            }
            if !name.is_empty() || nesting == 0 {
                return None;
            }
            let part = self.anonymous(self.word(at + 4)?)?;
            Some(bits / 8 + self.offset_in(part, member, nesting - 1)?)
        })
    }

    /// The structure or union of this id, also behind `const`.
    fn anonymous(&self, id: u32) -> Option<Struct> {
        let at = *self.places.get(id as usize)?;
        let info = self.word(at + 4)?;
        match info >> 24 & 0x1f {
            KIND_STRUCT | KIND_UNION => Some(Struct::new(info, at + 12)),
            KIND_CONST => self.anonymous(self.word(at + 8)?).filter(|_| self.word(at + 8) != Some(id)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One function and one structure with one member behind 24 bytes.
    fn sample() -> Vec<u8> {
        let strings = b"\0openat\0task_struct\0stack\0";
        let words: [u32; 9] = [1, KIND_FUNC << 24, 0, 8, KIND_STRUCT << 24 | 1, 32, 20, 0, 24 * 8];
        let mut data = HEADER_MAGIC.to_le_bytes().to_vec();
        data.extend([1, 0]);
        for word in [24, 0, 36, 36, strings.len() as u32].iter().chain(&words) {
            data.extend(word.to_le_bytes());
        }
        data.extend(strings);
        data
    }

    #[test]
    fn functions_and_members_are_found() {
        let types = KernelTypes::parse(sample()).unwrap();
        assert_eq!(types.function("openat"), Some(1));
        assert_eq!(types.function("close"), None);
        assert_eq!(types.member_offset("task_struct", "stack"), Some(24));
        assert_eq!(types.member_offset("task_struct", "pid"), None);
    }

    #[test]
    fn damaged_data_is_refused() {
        let sample = sample();
        for length in 0..sample.len() - 30 {
            let _ = KernelTypes::parse(sample[..length].to_vec());
        }
        assert!(KernelTypes::parse(vec![0; 64]).is_none());
    }
}
