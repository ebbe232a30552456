//! The generator of filter programs.
//!
//! The kernel runs a thread's filter before each of its system calls, on classic BPF: forward
//! jumps only, one accumulator. The program here is a binary search. The numbers of the permitted
//! calls cut the number line into intervals, each with one outcome, and neighbours with the same
//! outcome are one interval. Finding the interval takes about log2 of their count comparisons;
//! argument values are found in the same way. A call that is permitted whatever its arguments are
//! has only a path of number comparisons, which the kernel recognises when it loads the filter
//! (5.11 and later) and then permits without running the program at all.

use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, seccomp_data, sock_filter,
};

use crate::allow::{Allow, Condition};
use crate::{Error, arch};

/// `BPF_MAXINSNS` of `linux/bpf_common.h`.
const MAX_INSTRUCTIONS: usize = 4096;

/// An instruction's place, counted from the end of the program.
///
/// Jumps only go forward, so building from the end makes every target known when a jump to it is
/// made, and its distance is a subtraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// From `start` up to the next cut, the outcome is `then`.
#[derive(Debug, Clone, Copy)]
struct Cut {
    start: u32,
    then: Label,
}

/// Makes the program that permits `allowed` and answers `refusal` to all else.
pub(super) fn compile<'a>(
    allowed: impl Iterator<Item = &'a Allow>,
    refusal: u32,
) -> Result<Vec<sock_filter>, Error> {
    let mut rules: Vec<(u32, Option<&Condition>)> = allowed
        .filter_map(|allow| Some((u32::try_from(allow.number).ok()?, allow.condition.as_ref())))
        .collect();
    // Stable and unconditional first, so that one look at a group's head decides.
    rules.sort_by_key(|&(number, condition)| (number, condition.is_some()));

    let mut program = Program {
        reversed: Vec::with_capacity(4 * rules.len() + 16),
    };
    let permit = program.push(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    let refuse = program.push(BPF_RET | BPF_K, refusal);

    let mut cuts = Cuts::new(refuse);
    for group in rules.chunk_by(|a, b| a.0 == b.0) {
        let (number, head) = group[0];
        let outcome = match head {
            None => permit,
            Some(_) => {
                let conditions = group
                    .iter()
                    .filter_map(|&(_, condition)| condition)
                    .collect();
                program.conditions(conditions, permit, refuse)
            }
        };
        cuts.set(number, outcome);
    }
    let search = program.search(&cuts.intervals);
    let number = program.load(offset_of!(seccomp_data, nr), search);
    let native = program.branch(BPF_JEQ, arch::AUDIT_ARCH, number, refuse);
    program.load(offset_of!(seccomp_data, arch), native);

    let instructions = program.reversed.len();
    if instructions > MAX_INSTRUCTIONS {
        return Err(Error::FilterTooLarge { instructions });
    }
    program.reversed.reverse();
    Ok(program.reversed)
}

/// The number line cut into intervals; values are set in rising order.
struct Cuts {
    otherwise: Label,
    intervals: Vec<Cut>,
}

impl Cuts {
    /// The whole line has one outcome.
    fn new(otherwise: Label) -> Self {
        Self {
            otherwise,
            intervals: vec![Cut {
                start: 0,
                then: otherwise,
            }],
        }
    }

    /// Gives one value its own outcome.
    fn set(&mut self, value: u32, then: Label) {
        self.cut(value, then);
        if let Some(next) = value.checked_add(1) {
            self.cut(next, self.otherwise);
        }
    }

    /// Begins an interval, or extends the last one if that has the same outcome.
    fn cut(&mut self, start: u32, then: Label) {
        self.intervals.pop_if(|last| last.start == start);
        if self.intervals.last().is_none_or(|last| last.then != then) {
            self.intervals.push(Cut { start, then });
        }
    }
}

/// A program under construction, last instruction first.
struct Program {
    reversed: Vec<sock_filter>,
}

impl Program {
    fn push(&mut self, code: u32, k: u32) -> Label {
        self.push_jump(code, k, 0, 0)
    }

    fn push_jump(&mut self, code: u32, k: u32, jt: u8, jf: u8) -> Label {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "operation codes have 16 bits"
        )]
        let code = code as u16;
        self.reversed.push(sock_filter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// How many instructions a jump made `later` pushes from now skips to reach its target.
    fn distance(&self, target: Label, later: usize) -> usize {
        self.reversed.len() + later - target.0 - 1
    }

    /// Makes the target the next instruction of what is pushed now.
    fn fall_into(&mut self, target: Label) {
        let distance = self.distance(target, 0);
        if distance > 0 {
            self.jump(distance);
        }
    }

    /// An unconditional jump. Its reach is the whole of any program the kernel takes.
    fn jump(&mut self, distance: usize) -> Label {
        self.push(
            BPF_JMP | BPF_JA,
            u32::try_from(distance).unwrap_or(u32::MAX),
        )
    }

    /// The target, or a jump to it if it is out of a branch's reach of 255 instructions.
    fn near(&mut self, target: Label) -> Label {
        // Another such jump may still come between this one and the branch.
        if self.distance(target, 1) <= usize::from(u8::MAX) {
            return target;
        }
        let distance = self.distance(target, 0);
        self.jump(distance)
    }

    /// Compares the accumulator with `k` and goes one of two ways.
    fn branch(&mut self, compare: u32, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let reach = |distance| u8::try_from(distance).expect("`near` bounds the distance");
        let jt = reach(self.distance(yes, 0));
        let jf = reach(self.distance(no, 0));
        self.push_jump(BPF_JMP | compare | BPF_K, k, jt, jf)
    }

    /// Loads 32 bits of the call's description and goes on with `then`.
    fn load(&mut self, offset: usize, then: Label) -> Label {
        self.fall_into(then);
        let offset = u32::try_from(offset).expect("the description has 64 bytes");
        self.push(BPF_LD | BPF_W | BPF_ABS, offset)
    }

    /// Finds the accumulator's interval.
    fn search(&mut self, intervals: &[Cut]) -> Label {
        if let [only] = intervals {
            return only.then;
        }
        let middle = intervals.len() / 2;
        let (below, above) = intervals.split_at(middle);
        let start = above[0].start;
        let above = self.search(above);
        let below = self.search(below);
        self.branch(BPF_JGE, start, above, below)
    }

    /// Permits if any of the conditions holds.
    fn conditions(&mut self, mut all: Vec<&Condition>, permit: Label, refuse: Label) -> Label {
        all.sort_by_key(|condition| (condition.index, condition.mask));
        let mut miss = refuse;
        for same in all.chunk_by(|a, b| (a.index, a.mask) == (b.index, b.mask)) {
            let Condition { index, mask, .. } = *same[0];
            let values = same.iter().flat_map(|condition| condition.values);
            let mut values: Vec<u64> = values.map(|value| value & mask).collect();
            values.sort_unstable();
            miss = self.argument(index, mask, &values, permit, miss);
        }
        miss
    }

    /// Looks for an argument's bits under `mask` among sorted `values`.
    fn argument(
        &mut self,
        index: u8,
        mask: u64,
        values: &[u64],
        permit: Label,
        miss: Label,
    ) -> Label {
        let low = offset_of!(seccomp_data, args) + 8 * usize::from(index);
        let high = low + 4;
        let halves = |value: u64| {
            #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
            ((value >> 32) as u32, value as u32)
        };
        let (mask_high, mask_low) = halves(mask);

        let mut highs = Cuts::new(miss);
        for same in values.chunk_by(|&a, &b| halves(a).0 == halves(b).0) {
            let mut lows = Cuts::new(miss);
            for &value in same {
                lows.set(halves(value).1, permit);
            }
            let search = self.search(&lows.intervals);
            let entry = self.masked_load(low, mask_low, search);
            highs.set(halves(same[0]).0, entry);
        }
        if mask_high == 0 {
            // All values have the high half 0, which need not be looked at.
            return highs.intervals[0].then;
        }
        let search = self.search(&highs.intervals);
        self.masked_load(high, mask_high, search)
    }

    /// Loads 32 bits of the call's description, keeps those under the mask, goes on with `then`.
    fn masked_load(&mut self, offset: usize, mask: u32, then: Label) -> Label {
        let mut then = then;
        if mask != u32::MAX {
            self.fall_into(then);
            then = self.push(BPF_ALU | BPF_AND | BPF_K, mask);
        }
        self.load(offset, then)
    }
}

#[cfg(test)]
mod tests;
