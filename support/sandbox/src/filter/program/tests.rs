use std::collections::HashMap;
use std::time::Instant;

use libc::{SYS_getpid, SYS_ioctl, SYS_mmap, SYS_read, SYS_write, c_long};
use proptest::prelude::*;

use super::*;
use crate::COMMON;

const REFUSAL: u32 = libc::SECCOMP_RET_TRAP;

/// A system call as the kernel describes it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(number: c_long, arguments: [u64; 6]) -> Self {
        Self {
            arch: arch::AUDIT_ARCH,
            number: u32::try_from(number).unwrap(),
            arguments,
        }
    }

    /// The call's `struct seccomp_data`.
    fn bytes(&self) -> Vec<u8> {
        let head = [
            self.number.to_ne_bytes(),
            self.arch.to_ne_bytes(),
            [0; 4],
            [0; 4],
        ];
        let arguments = self.arguments.map(u64::to_ne_bytes);
        head.concat()
            .into_iter()
            .chain(arguments.concat())
            .collect()
    }
}

/// Runs a program as the kernel would; checks what the kernel checks. Also counts the steps.
fn run(program: &[sock_filter], call: Call) -> (u32, usize) {
    let data = call.bytes();
    let mut accumulator = 0u32;
    let mut at = 0;
    for steps in 1.. {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        at += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        if code == BPF_RET | BPF_K {
            return (k, steps);
        } else if code == BPF_LD | BPF_W | BPF_ABS {
            let k = usize::try_from(k).unwrap();
            assert_eq!(k % 4, 0);
            accumulator = u32::from_ne_bytes(data[k..k + 4].try_into().unwrap());
        } else if code == BPF_ALU | BPF_AND | BPF_K {
            accumulator &= k;
        } else if code == BPF_JMP | BPF_JA {
            at += usize::try_from(k).unwrap();
        } else if code == BPF_JMP | BPF_JEQ | BPF_K {
            at += branch(accumulator == k);
        } else if code == BPF_JMP | BPF_JGE | BPF_K {
            at += branch(accumulator >= k);
        } else {
            panic!("an instruction the generator does not use: {code:#x}");
        }
    }
    unreachable!("a program returns")
}

fn permits(allowed: &[Allow], call: Call) -> bool {
    let program = compile(allowed.iter(), REFUSAL).unwrap();
    let (answer, _) = run(&program, call);
    assert!(answer == SECCOMP_RET_ALLOW || answer == REFUSAL);
    answer == SECCOMP_RET_ALLOW
}

/// What a set of rules means, said as simply as possible.
fn should_permit(allowed: &[Allow], call: Call) -> bool {
    allowed.iter().any(|allow| {
        allow.number == c_long::from(call.number)
            && allow.condition.is_none_or(
                |Condition {
                     index,
                     mask,
                     values,
                 }| {
                    let argument = call.arguments[usize::from(index)] & mask;
                    values.iter().any(|value| value & mask == argument)
                },
            )
    })
}

#[test]
fn an_empty_set_refuses_everything() {
    for number in [0, 1, 231, 0x7fff_ffff] {
        assert!(!permits(&[], Call::new(number, [0; 6])));
    }
}

#[test]
fn another_architectures_calls_are_refused() {
    let call = Call::new(SYS_read, [0; 6]);
    assert!(permits(&[Allow::call(SYS_read)], call));
    assert!(!permits(
        &[Allow::call(SYS_read)],
        Call {
            arch: arch::AUDIT_ARCH ^ 1,
            ..call
        }
    ));
    // The x32 ABI's number of the same call.
    let x32 = Call {
        number: call.number | 0x4000_0000,
        ..call
    };
    assert!(!permits(&[Allow::call(SYS_read)], x32));
}

#[test]
fn an_unconditional_rule_wins() {
    let allowed = [
        Allow::ioctl(&[1]),
        Allow::call(SYS_ioctl),
        Allow::ioctl(&[2]),
    ];
    assert!(permits(&allowed, Call::new(SYS_ioctl, [0, 99, 0, 0, 0, 0])));
}

#[test]
fn ioctl_requests_ignore_the_upper_half_as_the_kernel_does() {
    let allowed = [Allow::ioctl(&[0x5413]), Allow::ioctl(&[0xae80])];
    for request in [0x5413, 0xae80, 0xffff_ffff_0000_5413] {
        assert!(
            permits(&allowed, Call::new(SYS_ioctl, [3, request, 0, 0, 0, 0])),
            "{request:x}"
        );
    }
    for request in [0, 0x5412, 0x5414, 0xae81] {
        assert!(
            !permits(&allowed, Call::new(SYS_ioctl, [3, request, 0, 0, 0, 0])),
            "{request:x}"
        );
    }
}

#[test]
fn whole_arguments_compare_both_halves() {
    let allowed = [Allow::arg(SYS_write, 2, &[7, 0x1_0000_0007, u64::MAX])];
    for (value, expected) in [
        (7, true),
        (0x1_0000_0007, true),
        (u64::MAX, true),
        (0x2_0000_0007, false),
        (8, false),
    ] {
        assert_eq!(
            permits(&allowed, Call::new(SYS_write, [0, 0, value, 0, 0, 0])),
            expected
        );
    }
}

#[test]
fn masks_look_at_their_bits_only() {
    let executable = 4;
    let allowed = [Allow::masked(SYS_mmap, 2, executable, &[0])];
    for (protection, expected) in [(0, true), (3, true), (4, false), (7, false)] {
        let call = Call::new(SYS_mmap, [0, 0, protection, 0, 0, 0]);
        assert_eq!(permits(&allowed, call), expected, "{protection}");
    }
}

#[test]
fn no_value_means_no_call() {
    for allow in [Allow::ioctl(&[]), Allow::arg(SYS_ioctl, 0, &[])] {
        assert!(!permits(&[allow], Call::new(SYS_ioctl, [0; 6])));
    }
}

#[test]
fn more_instructions_than_the_kernel_loads_are_an_error() {
    let scattered: Vec<Allow> = (0..5000).map(|n| Allow::call(2 * n)).collect();
    let error = compile(scattered.iter(), REFUSAL).unwrap_err();
    assert!(matches!(error, Error::FilterTooLarge { instructions } if instructions > 4096));
}

/// Sixty calls, a third of them with conditions, as a busy device thread has.
fn typical() -> Vec<Allow> {
    let others = (0..25).map(|n| Allow::call(200 + 3 * n));
    let requests: &[u64] = &[0xae80, 0xae41, 0x4004_ae99, 0x8004_ae98, 0x5413];
    COMMON
        .iter()
        .copied()
        .chain(others)
        .chain([Allow::ioctl(requests)])
        .collect()
}

#[test]
fn sixty_calls_compile_fast_and_run_in_few_steps() {
    let allowed = typical();
    let mut best = std::time::Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        compile(allowed.iter(), REFUSAL).unwrap();
        best = best.min(start.elapsed());
    }
    let program = compile(allowed.iter(), REFUSAL).unwrap();
    let steps = |call| run(&program, call).1;
    let plain = (0..500)
        .map(|number| steps(Call::new(number, [0; 6])))
        .max()
        .unwrap();
    let request = steps(Call::new(SYS_ioctl, [3, 0xae80, 0, 0, 0, 0]));
    println!(
        "{} rules: compiled in {best:?}, {} instructions, at most {plain} steps, ioctl {request}",
        allowed.len(),
        program.len()
    );
    // Slow on purpose to judge: a debug build on a busy machine.
    assert!(best.as_micros() < 2000, "{best:?}");
    assert!(plain <= 20, "{plain}");
    assert!(request <= 20, "{request}");
}

/// Whether a call that needs no look at its arguments never causes one, which is what lets the
/// kernel skip the program.
#[test]
fn unconditional_calls_never_load_arguments() {
    let program = compile(typical().iter(), REFUSAL).unwrap();
    // Forget all argument loads: were one on the path, the run would stop at the panic.
    let poisoned: Vec<sock_filter> = program
        .iter()
        .map(|&instruction| {
            let is_load = u32::from(instruction.code) == BPF_LD | BPF_W | BPF_ABS;
            if is_load && instruction.k >= 16 {
                sock_filter {
                    code: u16::MAX,
                    ..instruction
                }
            } else {
                instruction
            }
        })
        .collect();
    for number in [SYS_read, SYS_write, libc::SYS_futex, libc::SYS_epoll_pwait] {
        assert_eq!(
            run(&poisoned, Call::new(number, [0; 6])).0,
            SECCOMP_RET_ALLOW
        );
    }
    assert_eq!(
        run(&poisoned, Call::new(libc::SYS_connect, [0; 6])).0,
        REFUSAL
    );
    assert_eq!(run(&poisoned, Call::new(SYS_getpid, [0; 6])).0, REFUSAL);
}

/// Values that are near each other and near the edges, so that mistakes by one show.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..6,
        (0u64..4).prop_map(|n| (n << 32) | 3),
        (0u64..4).prop_map(|n| u64::MAX - n),
        (0u64..4).prop_map(|n| 0xffff_fffe + n),
        any::<u64>(),
    ]
}

fn rule() -> impl Strategy<Value = Allow> {
    let mask = prop_oneof![
        Just(u64::MAX),
        Just(0xffff_ffff),
        Just(0),
        Just(0xffff_ffff_0000_0000),
        Just(6),
        any::<u64>(),
    ];
    let values = prop::collection::vec(value(), 0..12).prop_map(|v| &*Vec::leak(v));
    let conditional = (0u8..6, mask, values);
    (0i64..40, prop::option::of(conditional)).prop_map(|(number, condition)| match condition {
        None => Allow::call(number),
        Some((index, mask, values)) => Allow::masked(number, index, mask, values),
    })
}

proptest! {
    #[test]
    fn programs_mean_what_the_rules_say(
        rules in prop::collection::vec(rule(), 0..60),
        calls in prop::collection::vec((0i64..42, prop::array::uniform6(value())), 1..60),
    ) {
        let program = compile(rules.iter(), REFUSAL).unwrap();
        // Every value of every rule too, exactly and one off.
        let named = rules.iter().filter_map(|rule| Some((rule.number, rule.condition?)));
        let near = named.flat_map(|(number, condition)| {
            condition.values.iter().flat_map(move |&value| {
                [value, value.wrapping_add(1), value.wrapping_sub(1)]
                    .map(|value| Call::new(number, [value; 6]))
            })
        });
        let random = calls.into_iter().map(|(number, arguments)| Call::new(number, arguments));
        for call in random.chain(near) {
            let expected = should_permit(&rules, call);
            prop_assert_eq!(run(&program, call).0 == SECCOMP_RET_ALLOW, expected, "{:?}", call);
        }
    }

    #[test]
    fn far_jumps_arrive(scattered in prop::collection::btree_set(0u32..100_000, 200..900)) {
        let rules: Vec<Allow> = scattered.iter().map(|&n| Allow::call(n.into())).collect();
        let program = compile(rules.iter(), REFUSAL).unwrap();
        let answers: HashMap<u32, bool> = scattered
            .iter()
            .flat_map(|&n| [n, n + 1])
            .map(|n| (n, scattered.contains(&n)))
            .collect();
        for (number, expected) in answers {
            let (answer, _) = run(&program, Call::new(number.into(), [0; 6]));
            prop_assert_eq!(answer == SECCOMP_RET_ALLOW, expected);
        }
    }
}
