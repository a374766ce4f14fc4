//! A short torture run; `./dev torture` runs a long one.

use syncmount_tests::torture::{PARTIES, torture};

#[test]
fn what_the_books_say_is_there_after_each_kill() {
    torture("what_the_books_say_is_there_after_each_kill", 8, &PARTIES);
}
