use super::*;

#[test]
fn an_area_from_a_smaller_host_is_filled_up() {
    let words = words(&[0x11; XSAVE_MIN], 11008).unwrap();
    assert_eq!(words.len(), 11008 / 4);
    assert_eq!(words[1023], 0x1111_1111);
    assert!(words[1024..].iter().all(|&word| word == 0));
}

#[test]
fn an_area_from_a_larger_host_fits_if_the_rest_is_unused() {
    let mut bytes = vec![0; 11008];
    bytes[XSAVE_MIN - 1] = 0xab;
    assert_eq!(words(&bytes, XSAVE_MIN).unwrap()[1023], 0xab00_0000);
    bytes[11007] = 1;
    let error = words(&bytes, XSAVE_MIN).unwrap_err().to_string();
    assert!(error.contains("11008") && error.contains("4096"), "{error}");
}

#[test]
fn a_short_area_is_refused() {
    assert!(words(&[0; XSAVE_MIN - 1], XSAVE_MIN).is_err());
    assert!(words(&[], 11008).is_err());
}
