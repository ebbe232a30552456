use proptest::prelude::*;

use super::*;

const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_1000,
    data: 0x41,
};

#[test]
fn the_kernel_is_only_asked_for_changes() {
    let mut routes = Routes::new();
    let mut calls = 0;
    let mut set = |routes: &mut Routes, message| {
        let count = |_: &Table| {
            calls += 1;
            Ok(())
        };
        routes.set(30, message, count).unwrap();
    };
    set(&mut routes, None);
    set(&mut routes, Some(MESSAGE));
    set(&mut routes, Some(MESSAGE));
    set(
        &mut routes,
        Some(MsiMessage {
            data: 0x42,
            ..MESSAGE
        }),
    );
    set(&mut routes, None);
    set(&mut routes, None);
    assert_eq!(calls, 3);
}

#[test]
fn a_refused_change_is_undone() {
    let mut routes = Routes::new();
    routes.set(3, Some(MESSAGE), |_| Ok(())).unwrap();
    let other = Some(MsiMessage {
        data: 0x99,
        ..MESSAGE
    });
    let refuse = |_: &Table| Err(Error::NoMsiRoute(0));
    assert!(routes.set(3, other, refuse).is_err());
    assert!(routes.set(4, other, refuse).is_err());
    assert!(routes.set(3, None, refuse).is_err());
    assert_eq!(routes.table, Table::from([(3, MESSAGE)]));
}

#[test]
fn a_released_number_comes_back_without_its_old_message() {
    let mut routes = Routes::new();
    let gsi = routes.free.take().unwrap();
    assert_eq!(gsi, IOAPIC_PINS, "the first one after the pins");
    routes.set(gsi, Some(MESSAGE), |_| Ok(())).unwrap();
    routes.release(gsi);
    assert_eq!(routes.free.take(), Some(gsi));
    let mut told = false;
    let tell = |_: &Table| {
        told = true;
        Ok(())
    };
    routes.set(gsi, Some(MESSAGE), tell).unwrap();
    assert!(
        told,
        "the kernel must be given the table again although the message is the same"
    );
}

#[test]
fn an_entry_has_all_of_the_address() {
    let entry = entry(
        77,
        MsiMessage {
            address: 0x0000_0100_fee0_2004,
            data: 0x51,
        },
    );
    assert_eq!((entry.gsi, entry.type_), (77, KVM_IRQ_ROUTING_MSI));
    // SAFETY: the entry was made as this member.
    let msi = unsafe { entry.u.msi };
    assert_eq!(
        (msi.address_hi, msi.address_lo, msi.data),
        (0x100, 0xfee0_2004, 0x51)
    );
}

proptest! {
    #[test]
    fn no_number_is_lent_twice(steps in proptest::collection::vec(any::<Option<prop::sample::Index>>(), 0..200)) {
        let mut numbers = Numbers::new(24, 64);
        let mut lent = Vec::new();
        for step in steps {
            match step {
                Some(index) if !lent.is_empty() => {
                    numbers.give_back(lent.swap_remove(index.index(lent.len())));
                }
                _ => match numbers.take() {
                    Some(number) => {
                        prop_assert!((24..64).contains(&number) && !lent.contains(&number));
                        lent.push(number);
                    }
                    None => prop_assert_eq!(lent.len(), 40),
                },
            }
        }
    }
}
