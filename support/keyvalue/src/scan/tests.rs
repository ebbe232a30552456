use super::{brackets, check, quote, split, split_pair, unquote};
use crate::Error;

fn pieces(text: &str) -> Vec<&str> {
    check(text).unwrap();
    split(text).collect()
}

/// What has no partner in `text`, and where.
fn fault(text: &str) -> (&'static str, usize) {
    match check(text) {
        Err(Error::Unbalanced { what, position, .. }) => (what, position),
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn commas_split_unless_protected() {
    assert_eq!(pieces("a=1,b=2"), ["a=1", "b=2"]);
    assert_eq!(pieces("a=[1,2],b=\"x,y\",c"), ["a=[1,2]", "b=\"x,y\"", "c"]);
    assert_eq!(pieces("a=[0@[1,2],3@[4]]"), ["a=[0@[1,2],3@[4]]"]);
    assert_eq!(
        pieces("a=\"]\",b=[\"[\",x],c=1"),
        ["a=\"]\"", "b=[\"[\",x]", "c=1"]
    );
    assert_eq!(pieces("a=\"x\"\",y\",b"), ["a=\"x\"\",y\"", "b"]);
}

#[test]
fn pieces_are_trimmed_and_an_empty_text_has_none() {
    assert_eq!(pieces("  a=1 , b = 2  "), ["a=1", "b = 2"]);
    assert_eq!(pieces(""), Vec::<&str>::new());
    assert_eq!(pieces(" \t "), Vec::<&str>::new());
    assert_eq!(pieces("a,,b,"), ["a", "", "b", ""]);
}

#[test]
fn faults_are_counted_in_characters() {
    assert_eq!(fault("a=\"b"), ("double quote", 3));
    assert_eq!(fault("äöü=\"b"), ("double quote", 5));
    assert_eq!(fault("a=[1,2"), ("\"[\"", 3));
    assert_eq!(fault("a=[1,[2]"), ("\"[\"", 3));
    assert_eq!(fault("a=1]"), ("\"]\"", 4));
    assert_eq!(fault("a=]["), ("\"]\"", 3));
    assert_eq!(fault("a=\"\"\""), ("double quote", 5));
}

#[test]
fn an_error_shows_the_text() {
    let message = check("path=\"/tmp/x,direct=on").unwrap_err().to_string();
    assert_eq!(
        message,
        r#"unbalanced double quote at character 6 of "path=\"/tmp/x,direct=on""#
    );
}

#[test]
fn one_pair_of_brackets_has_to_enclose_all() {
    assert_eq!(brackets("[1,2]"), Some("1,2"));
    assert_eq!(brackets("[]"), Some(""));
    assert_eq!(brackets("[[1],[2]]"), Some("[1],[2]"));
    assert_eq!(brackets("[\"]\"]"), Some("\"]\""));
    assert_eq!(brackets("[a][b]"), None);
    assert_eq!(brackets("a[b]"), None);
    assert_eq!(brackets("["), None);
    assert_eq!(brackets(""), None);
}

#[test]
fn pairs_split_at_the_first_free_at_sign() {
    assert_eq!(split_pair("0@[1,2]"), Some(("0", "[1,2]")));
    assert_eq!(split_pair("\"a@b\" @ c@d"), Some(("\"a@b\"", "c@d")));
    assert_eq!(split_pair("[a@b]"), None);
}

#[test]
fn quotes_go_and_doubled_ones_become_one() {
    assert_eq!(unquote("plain"), "plain");
    assert_eq!(unquote("\"a,b\""), "a,b");
    assert_eq!(unquote("x\"a,b\"y"), "xa,by");
    assert_eq!(unquote("\"say \"\"hi\"\"\""), "say \"hi\"");
    assert_eq!(unquote("\"\""), "");
    assert_eq!(unquote("\"\"\"\""), "\"");
    assert_eq!(unquote("a\"\"b"), "ab");
}

#[test]
fn what_needs_no_quotes_gets_none() {
    assert_eq!(quote("/dev/urandom"), "/dev/urandom");
    assert_eq!(quote("a=b c"), "a=b c");
    assert_eq!(quote("a,b"), "\"a,b\"");
    assert_eq!(quote(" a"), "\" a\"");
    assert_eq!(quote(""), "\"\"");
    assert_eq!(quote("\""), "\"\"\"\"");
}
