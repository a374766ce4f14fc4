//! Hints that are late, lost or of old paths.

use syncmount_tests::hinted::hinted;
use syncmount_tests::support::sized;

/// Of some thirty thousand seeds one takes a file that was renamed twice, and whose first new name another one took, for
/// removed and made again: hints do not tell the two apart. No seed that was tried lost a file.
#[test]
fn hints_in_any_order_lead_to_what_is_there() {
    for seed in 0..sized(2000, 25_000) {
        hinted(seed, 40).unwrap_or_else(|error| panic!("{error}"));
    }
}
