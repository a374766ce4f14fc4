//! Waiting without guessing: ask again until it is so, or the time is up.

use std::time::{Duration, Instant};

/// How long a test waits for what must come. Generous: a loaded machine is slow, and only a failure takes this long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until the answer is `Ok`, and gives it. The last `Err` is the reason in the panic when time is up.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if begin.elapsed() > PATIENCE => panic!("waited {PATIENCE:?} for {what}: {why}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}
