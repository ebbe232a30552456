//! PCI configuration space.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    surface::abort_on_panic();
    surface::attack::on_config_space(data);
});
