use super::*;

fn pool(directory: &Path, name: &str, files: &[(&str, &str)]) {
    let pool = directory.join(name);
    fs::create_dir(&pool).unwrap();
    for (file, text) in files {
        fs::write(pool.join(file), text).unwrap();
    }
}

#[test]
fn promised_pages_are_not_free() {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("nr_hugepages", "10\n"),
        ("free_hugepages", "7\n"),
        ("resv_hugepages", "3\n"),
    ];
    pool(directory.path(), "hugepages-2048kB", &files);
    assert_eq!(
        Pool::read(directory.path(), 2 << 20),
        Some(Pool { total: 10, free: 4 })
    );
    assert_eq!(Pool::read(directory.path(), 1 << 30), None);
}

#[test]
fn an_odd_pool_is_no_pool() {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("nr_hugepages", "many"),
        ("free_hugepages", "7"),
        ("resv_hugepages", "3"),
    ];
    pool(directory.path(), "hugepages-2048kB", &files);
    assert_eq!(Pool::read(directory.path(), 2 << 20), None);
}

#[test]
fn sizes_are_listed_smallest_first() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(supported(directory.path()), "none");
    for name in [
        "hugepages-1048576kB",
        "hugepages-2048kB",
        "hugepages-kB",
        "else",
    ] {
        pool(directory.path(), name, &[]);
    }
    assert_eq!(supported(directory.path()), "2 MiB or 1 GiB");
    assert_eq!(supported(Path::new("/does/not/exist")), "none");
}
