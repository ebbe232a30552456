//! Every kind is built, started and stopped by a thread that may make the system calls that the kind declares.

use sandbox::{Allow, Filter, Mode};
use surface::{Example, Rig, examples};

/// What building any machine takes besides.
const MACHINE: &[Allow] = &[
    Allow::ioctl(hypervisor::VM_IOCTLS),
    Allow::ioctl(hypervisor::VCPU_IOCTLS),
];

#[test]
fn every_kind_needs_no_more_than_it_says() {
    let folder = tempfile::tempdir().unwrap();
    for example in examples(folder.path()) {
        let Example {
            kind,
            config,
            label,
        } = &example;
        let calls = kind.syscalls();
        let sets = [
            sandbox::COMMON,
            sandbox::SPAWN,
            MACHINE,
            calls.owner,
            calls.vcpu,
            calls.worker,
        ];
        // What is not declared fails, so that the device cannot be built or started.
        let filter = Filter::compile(Mode::Errno, &sets).unwrap();
        let rig = Rig::new();
        let life = || -> Result<(), String> {
            filter.apply().map_err(|error| error.to_string())?;
            let mut device = rig.build(*kind, config)?;
            for _ in 0..2 {
                device.start().map_err(|error| error.to_string())?;
                rig.attend(device.as_mut());
                device.stop().map_err(|error| error.to_string())?;
            }
            device.save().map(drop).map_err(|error| error.to_string())
        };
        let result = std::thread::scope(|scope| scope.spawn(life).join().unwrap());
        assert_eq!(result, Ok(()), "{label}");
    }
}
