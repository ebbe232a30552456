//! Drivers that break the rules.

use proptest::prelude::*;

use super::*;

/// The device asks for a reset, and works after one.
fn is_dead_until_reset(bench: &Bench, device: &mut OverPci<Echo>, driver: &Driver<'_>) {
    eventually(|| driver.needs_reset());
    let mut queues = driver.start(u64::MAX);
    bench.attend(device);
    assert!(!driver.needs_reset());
    echo(bench, driver, &mut queues[0], b"back again");
}

#[test]
fn a_bad_chain_ends_in_a_request_for_reset_and_the_other_queue_works() {
    let bench = Bench::new();
    let (mut device, driver, mut queues) = at_work(&bench);
    queues[0].describe(0, u64::MAX, 16, 0, 0);
    queues[0].offer(0);
    driver.kick(0);
    bench.sent.wait(Driver::config_message());
    assert!(driver.needs_reset());
    assert_eq!(queues[0].used_index(), 0);
    echo(&bench, &driver, &mut queues[1], b"unharmed");
    is_dead_until_reset(&bench, &mut device, &driver);
}

#[test]
fn driver_ok_without_agreed_features_is_refused() {
    let bench = Bench::new();
    let mut device = device(&bench);
    let driver = Driver::find(&bench, 1);
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(driver.status() & status::DRIVER_OK, 0);
    is_dead_until_reset(&bench, &mut device, &driver);
}

#[test]
fn queues_that_are_not_ram_or_misaligned_are_refused() {
    let bench = Bench::new();
    let mut device = device(&bench);
    let driver = Driver::find(&bench, 1);
    for (field, address) in [
        (field::QUEUE_DESC, crate::testing::RAM_SIZE - 16),
        (field::QUEUE_DESC, 0xffff_ffff_ffff_fff0),
        (field::QUEUE_DESC, 8),
        (field::QUEUE_DRIVER, 1),
        (field::QUEUE_DEVICE, 2),
        (field::QUEUE_DEVICE, driver.bar(0)),
    ] {
        assert!(driver.negotiate(feature::VERSION_1));
        driver.set_common(field::QUEUE_SELECT, 2, 0);
        driver.set_common(field, 8, address);
        driver.set_common(field::QUEUE_ENABLE, 2, 1);
        driver.go();
        bench.attend(&mut device);
        assert!(driver.needs_reset(), "{address:#x} in {field:#x}");
        driver.kick(0);
    }
    is_dead_until_reset(&bench, &mut device, &driver);
}

#[test]
fn configuration_is_frozen_at_driver_ok() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = at_work(&bench);
    let before: Vec<u64> = (24..56).step_by(8).map(|at| driver.common(at, 8)).collect();
    for value in [0, 1, 0x1000, u64::MAX] {
        driver.set_common(field::QUEUE_SIZE, 2, value);
        for field in [field::QUEUE_DESC, field::QUEUE_DRIVER, field::QUEUE_DEVICE] {
            driver.set_common(field, 8, value);
            driver.set_common(field + 4, 4, value);
        }
        driver.set_common(field::QUEUE_ENABLE, 2, value);
        driver.set_common(field::QUEUE_RESET, 2, value);
        driver.set_common(field::DRIVER_FEATURE, 4, value);
    }
    let after: Vec<u64> = (24..56).step_by(8).map(|at| driver.common(at, 8)).collect();
    assert_eq!(before, after);
    echo(&bench, &driver, &mut queues[1], b"as before");
}

#[test]
fn enabled_queues_do_not_change_before_driver_ok_either() {
    let bench = Bench::new();
    let _device = device(&bench);
    let driver = Driver::find(&bench, 1);
    assert!(driver.negotiate(feature::VERSION_1));
    let queue = driver.queue(0, 16);
    driver.set_common(field::QUEUE_DESC, 8, 0x30_0000);
    driver.set_common(field::QUEUE_SIZE, 2, 64);
    assert_eq!(driver.common(field::QUEUE_DESC, 8), queue.addresses()[0]);
    assert_eq!(driver.common(field::QUEUE_SIZE, 2), 16);
}

#[test]
fn a_device_that_cannot_start_asks_for_reset() {
    let bench = Bench::new();
    let mut device = device(&bench);
    device.with_device(|echo| echo.refuse_start = true);
    let driver = Driver::find(&bench, 1);
    let _queues = driver.start(0);
    bench.attend(&mut device);
    assert!(driver.needs_reset());
    bench.sent.wait(Driver::config_message());
    device.with_device(|echo| echo.refuse_start = false);
    is_dead_until_reset(&bench, &mut device, &driver);
}

#[test]
fn a_driver_that_moves_bar_0_at_work_keeps_its_device() {
    let bench = Bench::new();
    let (mut device, mut driver, mut queues) = at_work(&bench);
    let home = driver.bar(0);
    let elsewhere = home - 0x4000_0000;
    driver.config_write(0x10, 4, elsewhere & 0xffff_ffff);
    driver.locate();
    assert_eq!(driver.bar(0), elsewhere);
    assert!(
        bench.bells.addresses().is_empty(),
        "no doorbell stays behind"
    );
    // Until the owner has time, the monitor rings.
    echo(&bench, &driver, &mut queues[0], b"through the monitor");
    bench.attend(&mut device);
    assert_eq!(
        bench.bells.addresses(),
        [driver.doorbell(0), driver.doorbell(1)]
    );
    echo(&bench, &driver, &mut queues[0], b"through the bell");
    assert_eq!(driver.read(home, 4), 0xffff_ffff);
}

#[test]
fn bars_on_top_of_each_other_are_kept_apart() {
    let bench = Bench::new();
    let (_first, first, mut first_queues) = at_work(&bench);
    let mut second = device(&bench);
    let mut second_driver = Driver::find(&bench, 2);
    let home = second_driver.bar(0);
    second_driver.config_write(0x10, 4, first.bar(0) & 0xffff_ffff);
    second_driver.config_write(0x14, 4, first.bar(0) >> 32);
    second_driver.locate();
    assert_eq!(second_driver.bar(0), home, "rolled back");
    echo(&bench, &first, &mut first_queues[0], b"first");
    let mut queues = second_driver.start(0);
    bench.attend(&mut second);
    echo(&bench, &second_driver, &mut queues[0], b"second");
}

#[test]
fn accesses_of_any_width_anywhere_are_survived() {
    let bench = Bench::new();
    let (_device, driver, _queues) = at_work(&bench);
    let base = driver.bar(0);
    for offset in (0..0x80)
        .chain(0x1ff8..0x2010)
        .chain(0x3ffc..0x4010)
        .chain(0x4ff8..0x6008)
    {
        for len in [1, 2, 3, 4, 5, 8] {
            let _ = driver.read(base + offset, len);
            // Not status: that would be a reset.
            if !(18..=22).contains(&(offset + len as u64)) && offset != 20 {
                bench.write(base + offset, &[0xff; 8][..len]);
            }
        }
    }
    let _ = driver.read(base + BAR_SIZE - 1, 1);
    let _ = driver.read(base + BAR_SIZE - 1, 8);
}

/// Something a driver does to the device's registers.
#[derive(Clone, Debug)]
enum Access {
    Config(u64, usize, u64),
    Bar(u64, usize, u64),
    Attend,
}

fn access() -> impl Strategy<Value = Access> {
    let len = proptest::sample::select(vec![1usize, 2, 4, 8]);
    let value = prop_oneof![0u64..16, any::<u64>()];
    // Structures are hit more often than the space between them, common fields at their starts.
    let field = proptest::sample::select((0u64..64).step_by(2).chain([21]).collect::<Vec<_>>());
    let offset = prop_oneof![
        4 => field,
        1 => 0x2000u64..0x2002,
        1 => 0x4000u64..0x4010,
        1 => 0x6000u64..0x6010,
        2 => 0x8000u64..0x8030,
        1 => 0u64..BAR_SIZE,
    ];
    prop_oneof![
        6 => (offset, len.clone(), value.clone()).prop_map(|(at, len, value)| Access::Bar(at, len, value)),
        2 => (0u64..0x100, len, value).prop_map(|(at, len, value)| Access::Config(at, len, value)),
        1 => Just(Access::Attend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever a driver does, the device works again for one that resets it and follows the rules, and its neighbour
    /// never noticed.
    #[test]
    fn any_accesses_are_survived(accesses in proptest::collection::vec(access(), 0..150)) {
        let bench = Bench::new();
        let (mut neighbour, neighbours_driver, mut queues) = at_work(&bench);
        let echo_features = feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_RESET;
        let mut device = device_with(&bench, Echo::new(echo_features));
        let mut driver = Driver::find(&bench, 2);
        for access in accesses {
            match access {
                Access::Config(offset, len, value) => {
                    driver.config_write(offset, len, value);
                    let _ = driver.config_read(offset, len);
                }
                Access::Bar(offset, len, value) => {
                    let address = driver.bar(0).wrapping_add(offset);
                    bench.write(address, &value.to_le_bytes()[..len]);
                    let _ = driver.read(address, len);
                }
                Access::Attend => device.attend(),
            }
        }
        driver.config_write(4, 2, 0);
        driver.config_write(4, 2, 2);
        driver.locate();
        let saved = {
            device.stop().unwrap();
            device.save().unwrap()
        };
        device.restore(saved).unwrap();
        device.start().unwrap();
        driver.locate();
        let mut own = driver.start(u64::MAX);
        device.attend();
        echo(&bench, &driver, &mut own[0], b"well again");
        neighbour.attend();
        echo(&bench, &neighbours_driver, &mut queues[1], b"never ill");
    }
}
