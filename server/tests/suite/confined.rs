//! The wall around a server: it works inside of it, and code in its process reaches nothing else.

use crate::client::{Client, good};
use crate::process::{rest_of_log, start_logging};
use std::fs;
use std::io::ErrorKind::PermissionDenied;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use syncmount_common::protocol::folders::FolderList;
use syncmount_server::{Config, Server, confine};

#[test]
fn code_in_the_server_reaches_the_data_directory_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (data, secret) = (directory.path().join("data"), directory.path().join("secret"));
    fs::write(&secret, "secret").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = elsewhere.local_addr().unwrap();
    let inside = move || {
        let config = Config::new(&data).listening_on("127.0.0.1:0");
        let held = confine::enter(&config).unwrap();
        assert_eq!(held.to_string(), "files, ports, system calls");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::open(config).await.unwrap().spawn();
            let token = fs::read_to_string(data.join("admin.token")).unwrap();
            server.service().add_folder("photos").await.unwrap();
            let folders = server.service().folders().await.unwrap();
            assert_eq!(folders.folders.len(), 2);
            assert!(token.len() >= 64);
            server.stop().await.unwrap();
        });
        for error in [
            fs::read(&secret).unwrap_err(),
            fs::write(&secret, "bad").unwrap_err(),
            fs::write(secret.with_file_name("new"), "bad").unwrap_err(),
            TcpStream::connect(address).unwrap_err(),
            Command::new("/bin/true").status().unwrap_err(),
        ] {
            assert_eq!(error.kind(), PermissionDenied, "{error}");
        }
    };
    std::thread::spawn(inside).join().unwrap();
}

/// The number in a line of `/proc/PID/status`.
fn number(pid: u32, line: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim().parse().unwrap()
}

#[tokio::test]
async fn every_thread_of_the_program_is_confined_and_the_log_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    for (options, filters, said) in
        [(&[][..], 2, "confined: files, ports, system calls"), (&["--no-confinement"][..], 0, "confined: nothing")]
    {
        let (process, log) = start_logging(&data, options);
        let client: Client = process.client();
        good::<FolderList>(client.get("/v1/folders").send().await.unwrap()).await;
        for task in fs::read_dir(format!("/proc/{}/task", process.id())).unwrap() {
            let task = task.unwrap().file_name().into_string().unwrap().parse().unwrap();
            assert_eq!(number(task, "Seccomp:"), filters);
        }
        assert!(process.terminate().success());
        assert!(rest_of_log(log).contains(said));
    }
}
