//! Registers and negotiation, from the side of a driver that follows the rules.

use super::*;

#[test]
fn is_found_with_the_ids_and_structures_of_the_specification() {
    let bench = Bench::new();
    let device = device(&bench);
    assert_eq!(device.address().to_string(), "0000:00:01.0");
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.config_read(0, 4), 0x106a_1af4);
    assert_eq!(driver.config_read(8, 4), 0x0780_0001);
    assert_eq!(driver.config_read(0x2c, 4), 0x106a_1af4);
    for (kind, len, offset, size) in [
        (1, 16, 0, 56),
        (2, 20, 0x6000, 0x1000),
        (3, 16, 0x2000, 1),
        (4, 16, 0x4000, 0x1000),
        (5, 20, 0, 0),
    ] {
        let at = driver.capability(9, Some(kind)).unwrap();
        assert_eq!(driver.config_read(at + 2, 1), len, "type {kind}");
        assert_eq!(driver.config_read(at + 4, 1), 0);
        assert_eq!(driver.config_read(at + 8, 4), offset);
        assert_eq!(driver.config_read(at + 12, 4), size);
    }
    let notify = driver.capability(9, Some(2)).unwrap();
    assert_eq!(driver.config_read(notify + 16, 4), 4);
    let msix = driver.capability(0x11, None).unwrap();
    assert_eq!(driver.config_read(msix + 2, 2), 2, "three vectors");
    assert_eq!(driver.config_read(msix + 4, 4), 0x8000);
    assert_eq!(driver.config_read(msix + 8, 4), 0x4_8000);
    assert_eq!(driver.bar(0) % BAR_ALIGN, 0);
    driver.config_write(0x10, 4, 0xffff_ffff);
    driver.config_write(0x14, 4, 0xffff_ffff);
    assert_eq!(driver.config_read(0x10, 4), 0xfff8_0004);
    assert_eq!(driver.config_read(0x14, 4), 0xffff_ffff);
}

#[test]
fn a_boot_device_has_its_registers_below_4_gib() {
    let bench = Bench::new();
    let environment = Environment {
        below_4g: true,
        ..bench.environment("low")
    };
    let mut device = OverPci::new("echo", Echo::new(0), environment).unwrap();
    device.start().unwrap();
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.bar(0), 0xe800_0000 - BAR_SIZE);
    assert!(driver.negotiate(feature::VERSION_1));
}

#[test]
fn offers_its_features_and_accepts_exactly_what_is_possible() {
    let bench = Bench::new();
    let environment = Environment {
        iommu: true,
        ..bench.environment("echo")
    };
    let echo = Echo::new(feature::EVENT_IDX);
    let mut device = OverPci::new("echo", echo, environment).unwrap();
    device.start().unwrap();
    let driver = Driver::find(&bench, 1);
    let needed = feature::VERSION_1 | feature::ACCESS_PLATFORM;
    assert_eq!(driver.offered(), feature::EVENT_IDX | needed);
    for (features, agreed) in [
        (needed, true),
        (needed | feature::EVENT_IDX, true),
        (feature::VERSION_1, false),
        (feature::ACCESS_PLATFORM, false),
        (needed | feature::INDIRECT_DESC, false),
        (0, false),
        (u64::MAX, false),
    ] {
        assert_eq!(driver.negotiate(features), agreed, "{features:#x}");
    }
    driver.set_common(field::DEVICE_FEATURE_SELECT, 4, 2);
    assert_eq!(driver.common(field::DEVICE_FEATURE, 4), 0, "there are 64");
}

#[test]
fn features_are_frozen_once_agreed() {
    let bench = Bench::new();
    let _device = device(&bench);
    let driver = Driver::find(&bench, 1);
    assert!(driver.negotiate(feature::VERSION_1));
    driver.set_common(field::DRIVER_FEATURE_SELECT, 4, 0);
    driver.set_common(field::DRIVER_FEATURE, 4, u64::from(u32::MAX));
    assert_eq!(driver.common(field::DRIVER_FEATURE, 4), 0);
    driver.set_status(status::ACKNOWLEDGE);
    assert_eq!(
        driver.status(),
        0xb,
        "bits are not taken away but by a reset"
    );
}

#[test]
fn queue_fields_read_back_by_halves_and_whole() {
    let bench = Bench::new();
    let _device = device(&bench);
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.common(field::NUM_QUEUES, 2), 2);
    for (queue, size) in [(0, 64), (1, 128)] {
        driver.set_common(field::QUEUE_SELECT, 2, queue);
        assert_eq!(driver.common(field::QUEUE_SIZE, 2), size);
        assert_eq!(driver.common(field::QUEUE_NOTIFY_OFF, 2), queue);
        driver.set_common(field::QUEUE_DESC, 8, 0x1234_5678_9abc_def0);
        driver.set_common(field::QUEUE_DEVICE + 4, 4, 7);
        assert_eq!(driver.common(field::QUEUE_DESC, 8), 0x1234_5678_9abc_def0);
        assert_eq!(driver.common(field::QUEUE_DESC + 4, 4), 0x1234_5678);
        assert_eq!(driver.common(field::QUEUE_DEVICE, 8), 7 << 32);
    }
    // Sizes that cannot be are not taken.
    for size in [0, 3, 256] {
        driver.set_common(field::QUEUE_SIZE, 2, size);
        assert_eq!(driver.common(field::QUEUE_SIZE, 2), 128);
    }
    driver.set_common(field::QUEUE_SELECT, 2, 2);
    assert_eq!(
        driver.common(field::QUEUE_SIZE, 2),
        0,
        "there is no such queue"
    );
    driver.set_common(field::QUEUE_ENABLE, 2, 1);
    assert_eq!(driver.common(field::QUEUE_ENABLE, 2), 0);
    // Vectors that do not exist read back as none.
    driver.set_common(field::CONFIG_VECTOR, 2, 3);
    assert_eq!(driver.common(field::CONFIG_VECTOR, 2), 0xffff);
    driver.set_common(field::CONFIG_VECTOR, 2, 2);
    assert_eq!(driver.common(field::CONFIG_VECTOR, 2), 2);
}

#[test]
fn requests_go_there_and_back_on_every_queue() {
    let bench = Bench::new();
    let (_device, driver, mut queues) = at_work(&bench);
    for round in 0..100 {
        for queue in &mut queues {
            echo(
                &bench,
                &driver,
                queue,
                format!("request {round}").as_bytes(),
            );
        }
    }
}

#[test]
fn without_msix_the_isr_byte_says_what_happened() {
    let bench = Bench::new();
    let mut device = device(&bench);
    let driver = Driver::find(&bench, 1);
    assert!(driver.negotiate(feature::VERSION_1));
    let mut queue = driver.queue(0, 64);
    driver.go();
    bench.attend(&mut device);
    queue.add(&[Part::Read(b"x"), Part::Write(1)]);
    driver.kick(0);
    eventually(|| queue.used_index() == 1);
    eventually(|| driver.isr() == 1);
    assert_eq!(driver.isr(), 0, "reading clears it");
    assert!(bench.sent.take().is_empty());
}

#[test]
fn configuration_fields_and_their_changes() {
    let bench = Bench::new();
    let (device, driver, _queues) = at_work(&bench);
    assert_eq!(driver.field(0, 4), u64::from(u32::from_le_bytes(*b"conf")));
    assert_eq!(
        driver.field(4, 4),
        u64::from(u32::from_le_bytes(*b"ig\0\0")),
        "what is beyond is 0"
    );
    assert_eq!(driver.field(0xfff, 1), 0);
    let generation = driver.common(field::CONFIG_GENERATION, 1);
    device.with_device(|echo| echo.change.clone().unwrap().announce());
    assert_ne!(driver.common(field::CONFIG_GENERATION, 1), generation);
    assert_eq!(driver.isr(), 2);
    bench.sent.wait(Driver::config_message());
}

#[test]
fn bar_0_can_be_reached_through_configuration_space() {
    let bench = Bench::new();
    let _device = device(&bench);
    let driver = Driver::find(&bench, 1);
    let window = driver.capability(9, Some(5)).unwrap();
    // With memory decoding off there is no other way.
    driver.config_write(4, 2, 0);
    assert_eq!(driver.read(driver.bar(0), 4), 0xffff_ffff);
    let select = |offset, len| {
        driver.config_write(window + 4, 1, 0);
        driver.config_write(window + 8, 4, offset);
        driver.config_write(window + 12, 4, len);
    };
    select(field::DEVICE_STATUS as u64, 1);
    driver.config_write(window + 16, 1, 3);
    assert_eq!(driver.config_read(window + 16, 1), 3);
    select(0x4000, 4);
    assert_eq!(
        driver.config_read(window + 16, 4),
        u64::from(u32::from_le_bytes(*b"conf"))
    );
    // Nonsense has no effect: other BARs, widths, misaligned, beyond the end.
    for (bar, offset, len) in [
        (1, 0, 4),
        (0, 0, 8),
        (0, 2, 4),
        (0, BAR_SIZE, 4),
        (0, u64::MAX, 4),
    ] {
        driver.config_write(window + 4, 1, bar);
        driver.config_write(window + 8, 4, offset & 0xffff_ffff);
        driver.config_write(window + 12, 4, len);
        driver.config_write(window + 16, 4, 0);
    }
    select(field::DEVICE_STATUS as u64, 1);
    assert_eq!(driver.config_read(window + 16, 1), 3);
    assert_eq!(
        driver.config_read(window + 3, 1),
        5,
        "the type cannot be written"
    );
}
