//! A client of the admin socket.

use super::{Exit, Failure};
use crate::admin::{ErrorBody, POLICY};
use reqwest::{Client, Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Speaks to the live server.
pub struct AdminClient {
    client: Client,
    socket: PathBuf,
}

impl AdminClient {
    /// A client for the server whose socket is at `socket`.
    ///
    /// # Errors
    /// Nobody answers there: exit code 4, with the reason.
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        if let Err(error) = UnixStream::connect(socket) {
            return Err(unreachable(socket, &error));
        }
        let client = Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|e| Failure::new(format!("cannot make a client: {e}")))?;
        Ok(Self { client, socket: socket.to_owned() })
    }

    /// GET with a query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<T, Failure> {
        let response = self.send(Method::GET, &format!("{path}{query}"), None).await?;
        self.parse(response).await
    }

    /// POST with a JSON body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let response = self.open(path, body).await?;
        self.parse(response).await
    }

    /// POST whose answer is read piece by piece.
    pub async fn open(&self, path: &str, body: &impl Serialize) -> Result<Response, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::new)?;
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response, Failure> {
        let mut request = self.client.request(method, format!("http://tidegate{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.bytes().await.map_err(|e| self.broken(&e))?;
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) if body.kind == POLICY => Failure { exit: Exit::Problems, message: body.error },
            Ok(body) => Failure::new(body.error),
            Err(_) => Failure::new(format!("the server answered {status} to {path}")),
        })
    }

    async fn parse<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        let bytes = response.bytes().await.map_err(|e| self.broken(&e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(format!("the server's answer is not understood ({e}); is it another version?")))
    }

    /// The connection broke.
    pub fn broken(&self, error: &reqwest::Error) -> Failure {
        use std::error::Error;
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            message = format!("{message}: {next}");
            cause = next.source();
        }
        let message = format!("the server at {} stopped answering: {message}", self.socket.display());
        Failure { exit: Exit::Unreachable, message }
    }
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let socket = socket.display();
    let message = match error.kind() {
        ErrorKind::NotFound => format!(
            "no server runs: there is no {socket}. Start one with tidegate serve, or name its data with --config FILE or --data-dir DIR"
        ),
        ErrorKind::ConnectionRefused => {
            format!(
                "no server runs: nobody answers at {socket}, which a server left that was killed. Start it again with tidegate serve"
            )
        }
        ErrorKind::PermissionDenied => {
            format!("you may not use {socket}: run this as the user that runs the server")
        }
        _ => format!("the server cannot be reached at {socket}: {error}"),
    };
    Failure { exit: Exit::Unreachable, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_and_a_dead_server_are_told_apart_with_exit_code_4() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let Err(missing) = AdminClient::connect(&socket) else { panic!("connected to nothing") };
        assert_eq!(missing.exit, Exit::Unreachable);
        assert!(missing.message.contains("--data-dir"), "{}", missing.message);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let Err(dead) = AdminClient::connect(&socket) else { panic!("connected to a dead socket") };
        assert_eq!(dead.exit, Exit::Unreachable);
        assert!(dead.message.contains("was killed"), "{}", dead.message);
    }
}
