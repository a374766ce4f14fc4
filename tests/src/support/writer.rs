//! A program that has a file open.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A program of its own that writes to a file, so that nobody else ever has and closes it: tests beside this one start
/// programs, each of which would have all files of this process for a moment, and close them.
pub struct Writer {
    program: Child,
    bytes: Option<ChildStdin>,
}

impl Writer {
    /// Hands an open file over; it is written to from where it stands.
    #[track_caller]
    pub fn begin(file: File) -> Self {
        let mut program = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
        let bytes = program.stdin.take();
        Self { program, bytes }
    }

    /// The bytes are on their way to the file.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.bytes.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Until everything has been written, and the file is closed.
    #[track_caller]
    pub fn close(mut self) {
        self.bytes = None;
        assert!(self.program.wait().unwrap().success());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.bytes = None;
        drop(self.program.kill());
        drop(self.program.wait());
    }
}
