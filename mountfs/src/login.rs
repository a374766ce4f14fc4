//! Saved logins: one token per server, in a file that only its owner can read.
//!
//! A token is saved only after the server has accepted it. It is never shown and never travels in an argument or a
//! variable.

use crate::cli::{LoginArgs, LogoutArgs};
use crate::config::{self, Dirs, Secret, StartError};
use crate::ports::{Remote, RemoteError};
use crate::remote::{HttpRemote, SetupError};
use crate::terminal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

/// A line with a token is at most this long; the rest is not read.
const TOKEN_LINE_LEN_MAX: u64 = 8 << 10;

/// Why a login failed; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// URL, file or token are not usable.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A connection cannot even be tried.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server does not know the token.
    #[error("{0} does not accept this token; get one on the server with `syncmount-server token add NAME`")]
    Refused(String),
    /// The server could not be asked.
    #[error("{server} cannot check the token, so nothing was saved: {error}")]
    Unchecked {
        /// The server.
        server: String,
        /// What happened.
        error: RemoteError,
    },
    /// The terminal or stdin failed.
    #[error("cannot read the token: {0}")]
    Input(io::Error),
    /// stdout failed.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
    /// There was nothing to forget.
    #[error("there is no saved login for {0}")]
    NotLoggedIn(String),
}

/// The saved logins.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logins {
    #[serde(default)]
    servers: BTreeMap<String, Login>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

impl Logins {
    fn path(dirs: &Dirs) -> PathBuf {
        dirs.config.join("logins.toml")
    }

    /// Reads them; none is no error.
    pub fn read(dirs: &Dirs) -> Result<Self, StartError> {
        config::read_settings(&Self::path(dirs))
    }

    /// The servers with a saved login, by URL.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// The token for `server`.
    pub fn token(&self, server: &str) -> Result<Option<Secret>, StartError> {
        let token = |login: &Login| Secret::parse(&login.token, &format!("the saved login for {server}"));
        self.servers.get(server).map(token).transpose()
    }

    /// Saves the token for `server` in place of an earlier one.
    pub fn save(dirs: &Dirs, server: &str, token: &Secret) -> Result<(), StartError> {
        let login = Login { token: token.expose().into() };
        Self::change(dirs, |logins| drop(logins.servers.insert(server.into(), login)))
    }

    /// Forgets the token for `server`; answers whether there was one.
    pub fn remove(dirs: &Dirs, server: &str) -> Result<bool, StartError> {
        let mut found = false;
        Self::change(dirs, |logins| found = logins.servers.remove(server).is_some())?;
        Ok(found)
    }

    fn change(dirs: &Dirs, change: impl FnOnce(&mut Self)) -> Result<(), StartError> {
        let _lock = config::lock_settings(&dirs.config)?;
        let mut logins = Self::read(dirs)?;
        change(&mut logins);
        config::write_settings(&Self::path(dirs), &logins)
    }
}

/// `syncmount login URL`.
pub async fn login(args: &LoginArgs, dirs: &Dirs) -> Result<(), LoginError> {
    let server = config::server_url(&args.server)?;
    config::refuse_in_clear(&server, args.insecure_http)?;
    let token = match &args.token_file {
        Some(path) => Secret::read_file(path)?,
        None => ask(&server)?,
    };
    check(&server, &token, args.insecure_http).await?;
    Logins::save(dirs, &server, &token)?;
    terminal::say(format_args!("Logged in to {server}. Mount with: syncmount FOLDER --server {server}"))?;
    Ok(())
}

/// `syncmount logout URL`. The token stays valid until it is revoked on the server.
pub fn logout(args: &LogoutArgs, dirs: &Dirs) -> Result<(), LoginError> {
    let server = config::server_url(&args.server)?;
    if !Logins::remove(dirs, &server)? {
        return Err(LoginError::NotLoggedIn(server));
    }
    terminal::say(format_args!("Forgot the token for {server}. It stays valid until it is revoked on the server."))?;
    Ok(())
}

fn ask(server: &str) -> Result<Secret, LoginError> {
    if io::stdin().is_terminal() {
        let text = rpassword::prompt_password(format!("Token for {server}: ")).map_err(LoginError::Input)?;
        return Ok(Secret::parse(&text, "what was typed")?);
    }
    read_token(io::stdin().lock())
}

fn read_token(input: impl BufRead) -> Result<Secret, LoginError> {
    let mut line = String::new();
    input.take(TOKEN_LINE_LEN_MAX).read_line(&mut line).map_err(LoginError::Input)?;
    Ok(Secret::parse(&line, "stdin")?)
}

/// Asks the server whether it takes `token`.
async fn check(server: &str, token: &Secret, insecure_http: bool) -> Result<(), LoginError> {
    let url = server.parse().map_err(StartError::from)?;
    let remote = HttpRemote::new_through(&url, config::DEFAULT_FOLDER, token.expose(), insecure_http)?;
    match remote.folder().await {
        // A server without a folder of that name has still looked at the token first.
        Ok(_) | Err(RemoteError::FolderNotFound) => Ok(()),
        Err(RemoteError::Unauthorized) => Err(LoginError::Refused(server.into())),
        Err(error) => Err(LoginError::Unchecked { server: server.into(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn token(text: &str) -> Secret {
        Secret::parse(text, "test").unwrap()
    }

    /// A server that gives one answer to whoever comes.
    async fn answering(status: &'static str, body: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            let head = format!("HTTP/1.1 {status}\r\nsyncmount-protocol: 1\r\ncontent-type: application/json\r\n");
            let reply = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        url
    }

    const UNAUTHORIZED: &str = r#"{"code":"unauthorized","message":"no","retryable":false}"#;
    const NOT_FOUND: &str = r#"{"code":"not_found","message":"no","retryable":false}"#;

    #[test]
    fn logins_are_kept_per_server_and_only_for_their_owner() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        assert_eq!(Logins::read(&dirs).unwrap().servers().count(), 0);
        Logins::save(&dirs, "http://b", &token("one")).unwrap();
        Logins::save(&dirs, "http://a", &token("two")).unwrap();
        Logins::save(&dirs, "http://b", &token("three")).unwrap();
        let logins = Logins::read(&dirs).unwrap();
        assert_eq!(logins.servers().collect::<Vec<_>>(), ["http://a", "http://b"]);
        assert_eq!(logins.token("http://b").unwrap().unwrap().expose(), "three");
        assert!(logins.token("http://c").unwrap().is_none());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(Logins::path(&dirs)), 0o600);
            assert_eq!(mode(dirs.config.clone()), 0o700);
        }
        assert!(Logins::remove(&dirs, "http://b").unwrap());
        assert!(!Logins::remove(&dirs, "http://b").unwrap());
        assert_eq!(Logins::read(&dirs).unwrap().servers().collect::<Vec<_>>(), ["http://a"]);
    }

    #[test]
    fn logins_saved_at_the_same_time_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        std::thread::scope(|scope| {
            for number in 0..8 {
                let dirs = &dirs;
                scope.spawn(move || Logins::save(dirs, &format!("http://{number}"), &token("x")).unwrap());
            }
        });
        assert_eq!(Logins::read(&dirs).unwrap().servers().count(), 8);
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        config::create_private_dir(&dirs.config).unwrap();
        std::fs::write(Logins::path(&dirs), "servers = [").unwrap();
        assert!(matches!(Logins::save(&dirs, "http://a", &token("x")), Err(StartError::Damaged { .. })));
        assert_eq!(std::fs::read_to_string(Logins::path(&dirs)).unwrap(), "servers = [");
    }

    #[test]
    fn the_token_is_the_first_line_of_stdin() {
        assert_eq!(read_token(&b"abc\nmore"[..]).unwrap().expose(), "abc");
        assert!(read_token(&b""[..]).is_err());
    }

    #[tokio::test]
    async fn a_token_is_saved_only_if_the_server_takes_it() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        let token_file = Some(root.path().join("token"));
        std::fs::write(root.path().join("token"), "abc\n").unwrap();

        let args =
            LoginArgs { server: answering("401 Unauthorized", UNAUTHORIZED).await, token_file, insecure_http: false };
        assert!(matches!(login(&args, &dirs).await, Err(LoginError::Refused(_))));
        let args = LoginArgs { server: "http://sync.example.org".into(), ..args };
        let refused = login(&args, &dirs).await.unwrap_err();
        assert!(matches!(&refused, LoginError::Start(StartError::InClear(_))), "{refused}");
        let args = LoginArgs { server: "http://127.0.0.1:1".into(), ..args };
        assert!(matches!(login(&args, &dirs).await, Err(LoginError::Unchecked { .. })));
        let args = LoginArgs { server: answering("200 OK", "<html>").await, ..args };
        assert!(matches!(login(&args, &dirs).await, Err(LoginError::Unchecked { .. })));
        assert_eq!(Logins::read(&dirs).unwrap().servers().count(), 0);

        let args = LoginArgs { server: answering("404 Not Found", NOT_FOUND).await + "/", ..args };
        login(&args, &dirs).await.unwrap();
        let server = args.server.trim_end_matches('/').to_string();
        assert_eq!(Logins::read(&dirs).unwrap().token(&server).unwrap().unwrap().expose(), "abc");
        logout(&LogoutArgs { server: server.clone() }, &dirs).unwrap();
        assert!(matches!(logout(&LogoutArgs { server }, &dirs), Err(LoginError::NotLoggedIn(_))));
    }
}
