//! Which run of the operating system this is: what a process wrote in this run is in the system's memory at least, what it
//! wrote in an earlier one may have been lost with the power.
//!
//! Promises never to take two runs for one. It may take one for two where a clock was set (Windows): then everything is
//! looked at as after a power cut, which costs time and loses nothing.

/// Names this run of the system. `None` where that cannot be known.
#[cfg(target_os = "linux")]
pub(crate) fn current() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Names this run of the system. `None` where that cannot be known.
#[cfg(target_os = "macos")]
pub(crate) fn current() -> Option<String> {
    let mut text = [0_u8; 64];
    let mut len = text.len();
    // SAFETY: the name ends with NUL, `len` is the room at `text`, and nothing is set.
    let result = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            text.as_mut_ptr().cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    let text = std::ffi::CStr::from_bytes_until_nul(text.get(..len)?).ok()?.to_str().ok()?;
    (result == 0 && !text.is_empty()).then(|| text.to_owned())
}

/// Names this run of the system. `None` where that cannot be known.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
pub(crate) fn current() -> Option<String> {
    None
}

/// Names this run of the system: the number that Windows gives it, and the second in which it began.
#[cfg(windows)]
pub(crate) fn current() -> Option<String> {
    use std::time::{SystemTime, UNIX_EPOCH};
    let began = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(super::windows::uptime())?;
    let number = super::windows::boot_number().map_or_else(|| "-".into(), |number| number.to_string());
    Some(format!("{number} {}", began.as_secs()))
}

/// Whether `recorded` and `now`, both from [`current`], name the same run.
#[cfg(not(windows))]
pub(crate) fn is_same(recorded: &str, now: &str) -> bool {
    recorded == now
}

/// Whether `recorded` and `now`, both from [`current`], name the same run.
#[cfg(windows)]
pub(crate) fn is_same(recorded: &str, now: &str) -> bool {
    is_same_second(recorded, now)
}

/// The clock is corrected in small steps while the system runs. No machine dies, comes up and lets a user in within this.
#[cfg(any(windows, test))]
const CORRECTION_MAX_S: u64 = 5;

#[cfg(any(windows, test))]
fn is_same_second(recorded: &str, now: &str) -> bool {
    let parse = |text: &str| -> Option<(String, u64)> {
        let (number, began) = text.split_once(' ')?;
        Some((number.to_owned(), began.parse().ok()?))
    };
    match (parse(recorded), parse(now)) {
        (Some((number, began)), Some((number_now, began_now))) => {
            number == number_now && began.abs_diff(began_now) <= CORRECTION_MAX_S
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_run_has_a_name_that_stays() {
        let first = current().unwrap();
        let second = current().unwrap();
        assert!(is_same(&first, &second), "{first} {second}");
        assert!(!is_same("another boot", &first) && !is_same("", &first));
    }

    #[test]
    fn a_run_that_is_known_by_its_begin_is_told_from_others() {
        assert!(is_same_second("7 1000", "7 1000"));
        assert!(is_same_second("7 1000", "7 1005"));
        assert!(!is_same_second("7 1000", "7 1006"), "it began later");
        assert!(!is_same_second("7 1000", "8 1000"), "it has another number");
        assert!(!is_same_second("- 1000", "8 1000"), "not known is not the same");
        for unsure in ["", "7", "x", "7 x", "another boot"] {
            assert!(!is_same_second(unsure, "7 1000"), "{unsure}");
        }
    }
}
