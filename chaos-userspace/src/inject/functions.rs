//! The functions within a program, and the type information by which the verifier tells them apart.
//!
//! A global function is verified once, for whatever arguments; any other anew for every call (5.6, `do_check_subprogs`,
//! kernel/bpf/verifier.c). Which is which stands in the program's own type information, which aya 0.14 hands over only
//! together with its own way of loading; what is needed is a few words.

use aya_obj::generated::bpf_insn;

/// Functions of this prefix take one number and return one; all others (the compiler's `memcpy`) take pointers, which a
/// global function cannot before 5.12.
const GLOBAL_PREFIX: &str = "kc_";

/// A function within a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first instruction, counted from the program's.
    pub start: u32,
    /// Its name.
    pub name: String,
    /// Whether it is verified for itself.
    pub global: bool,
}

impl Part {
    /// Its name as type information may have it: an identifier of less than `KSYM_NAME_LEN` bytes, which was 128 until 6.1
    /// (`btf_name_valid_identifier`, kernel/bpf/btf.c). Those of closures are longer.
    fn identifier(&self) -> String {
        const BYTES_MAX: usize = 100;
        let usable = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        self.name.chars().map(usable).take(BYTES_MAX).collect()
    }
}

/// The functions of the program `name`, itself first, in their order. Empty for one that calls none. `linkable` are
/// those it may have been linked with.
pub fn parts<'a>(
    name: &str,
    instructions: &[bpf_insn],
    linkable: impl Iterator<Item = (&'a str, &'a [bpf_insn])> + Clone,
) -> Vec<Part> {
    let called = |(at, instruction): (usize, &bpf_insn)| {
        is_call(instruction).then(|| usize::try_from(at as i64 + 1 + i64::from(instruction.imm)).ok())?
    };
    let mut starts: Vec<usize> = instructions.iter().enumerate().filter_map(called).collect();
    starts.sort_unstable();
    starts.dedup();
    if starts.is_empty() {
        return vec![];
    }
    let part = |start: usize| {
        let code = instructions.get(start..).unwrap_or_default();
        let known = linkable.clone().find(|(_, function)| begins_with(code, function));
        let name = known.map_or("unknown", |(name, _)| name);
        Part { start: start as u32, name: name.to_owned(), global: name.starts_with(GLOBAL_PREFIX) }
    };
    let whole = Part { start: 0, name: name.to_owned(), global: true };
    std::iter::once(whole).chain(starts.into_iter().map(part)).collect()
}

/// A call of another function of the program: `BPF_PSEUDO_CALL`.
fn is_call(instruction: &bpf_insn) -> bool {
    const CALL: u8 = 0x85;
    const PSEUDO_CALL: u8 = 1;
    instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL
}

/// Whether the code is that function's, wherever its calls lead from its place.
fn begins_with(code: &[bpf_insn], function: &[bpf_insn]) -> bool {
    let same = |(one, other): (&bpf_insn, &bpf_insn)| {
        one.code == other.code
            && one.off == other.off
            && one.dst_reg() == other.dst_reg()
            && one.src_reg() == other.src_reg()
            && (one.imm == other.imm || is_call(one))
    };
    code.len() >= function.len() && code.iter().zip(function).all(same)
}

/// Type information (include/uapi/linux/btf.h) that says of each part what it is.
#[derive(Debug)]
pub struct Types {
    /// For `BPF_BTF_LOAD`.
    pub data: Vec<u8>,
    /// One `struct bpf_func_info` per part: its first instruction and its type's number.
    pub functions: Vec<[u32; 2]>,
}

impl Types {
    /// Describes `parts`.
    pub fn of(parts: &[Part]) -> Self {
        const INT: u32 = 1 << 24;
        const FUNC: u32 = 12 << 24;
        const FUNC_PROTO: u32 = 13 << 24;
        const GLOBAL: u32 = 1;
        const BYTES: u32 = 4;
        const BITS: u32 = 32;
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes().chain([0]));
            at
        };
        // 1: u32. 2: fn(number: u32) -> u32. 3: fn() -> u32.
        let mut words = vec![name("u32"), INT, BYTES, BITS];
        words.extend([0, FUNC_PROTO | 1, 1, name("number"), 1]);
        words.extend([0, FUNC_PROTO, 1]);
        const FIRST: u32 = 4;
        let mut functions = vec![];
        for (number, part) in (FIRST..).zip(parts) {
            let (linkage, prototype) =
                if part.global && part.start != 0 { (GLOBAL, 2) } else { (u32::from(part.global), 3) };
            words.extend([name(&part.identifier()), FUNC | linkage, prototype]);
            functions.push([part.start, number]);
        }
        Self { data: with_header(&words, &strings), functions }
    }
}

/// `struct btf_header`, types, strings.
fn with_header(types: &[u32], strings: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0xeb9f;
    const VERSION: u32 = 1 << 16;
    const HEADER_BYTES: u32 = 24;
    let types_bytes = types.len() as u32 * 4;
    let header = [MAGIC | VERSION, HEADER_BYTES, 0, types_bytes, types_bytes, strings.len() as u32];
    let words = header.iter().chain(types).flat_map(|word| word.to_ne_bytes());
    words.chain(strings.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;

    fn code(instructions: &[(u8, u8, i32)]) -> Vec<bpf_insn> {
        let instruction = |(code, source, imm): &(u8, u8, i32)| bpf_insn {
            code: *code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, *source),
            off: 0,
            imm: *imm,
        };
        instructions.iter().map(instruction).collect()
    }

    #[test]
    fn functions_are_known_by_their_code() {
        let judge = code(&[(MOVE, 0, 7), (CALL, 1, -1), (EXIT, 0, 0)]);
        let set = code(&[(MOVE, 0, 0), (EXIT, 0, 0)]);
        let linkable = [("kc_judge", &judge[..]), ("memset", &set[..])];
        // Linked, the judge's call leads to what lies behind it.
        let program = code(&[
            (CALL, 1, 1),
            (EXIT, 0, 0),
            (MOVE, 0, 7),
            (CALL, 1, 1),
            (EXIT, 0, 0),
            (MOVE, 0, 0),
            (EXIT, 0, 0),
        ]);
        let part = |start, name: &str, global| Part { start, name: name.to_owned(), global };
        let parts = super::parts("kc_egress", &program, linkable.into_iter());
        assert_eq!(parts, [part(0, "kc_egress", true), part(2, "kc_judge", true), part(5, "memset", false)]);
        // A call of a helper is none.
        assert_eq!(super::parts("kc_exit", &code(&[(CALL, 0, 5), (EXIT, 0, 0)]), linkable.into_iter()), []);

        let types = Types::of(&parts);
        assert_eq!(types.functions, [[0, 4], [2, 5], [5, 6]]);
        let word =
            |at: usize| types.data.get(at..at + 4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        // Behind the header and three types of 4, 5 and 3 words.
        let linkages = [0, 1, 2].map(|number| word(24 + 4 * (12 + 3 * number + 1)).map(|info| info & 0xffff));
        assert_eq!(linkages, [Some(1), Some(1), Some(0)]);
        assert_eq!(types.data.len() as u32, 24 + word(12).unwrap() + word(20).unwrap());
        assert!(types.data.ends_with(b"\0memset\0"));
        let closure = part(0, &format!("_R$.{}", "x".repeat(300)), false).identifier();
        assert!(closure.starts_with("_R__xx") && closure.len() < 128, "{closure}");
    }
}
