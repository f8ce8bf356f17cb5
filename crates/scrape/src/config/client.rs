//! How an HTTP server is reached: credentials, TLS, redirects, headers.

use super::{ConfigError, Fields};
use std::path::{Path, PathBuf};
use weir_tls::{ClientTls, Pem};

/// Who we say we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// A type, `Bearer` mostly, and what stands behind it.
    Inline {
        /// The word before the credentials.
        kind: String,
        /// The credentials.
        credentials: String,
    },
    /// The same from a file, which is read for each request.
    File {
        /// The word before the credentials.
        kind: String,
        /// The file.
        path: PathBuf,
    },
    /// User name and password.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// The same with the password from a file, which is read for each request.
    BasicFile {
        /// User name.
        user: String,
        /// The file.
        path: PathBuf,
    },
}

impl std::fmt::Debug for Authorization {
    /// Secrets must not get into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Authorization::Inline { kind, .. } => write!(f, "{kind} <secret>"),
            Authorization::File { kind, path } => write!(f, "{kind} {}", path.display()),
            Authorization::Basic { user, .. } => write!(f, "basic {user} <secret>"),
            Authorization::BasicFile { user, path } => write!(f, "basic {user} {}", path.display()),
        }
    }
}

/// What the fields of an HTTP client say, wherever they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Who we say we are.
    pub authorization: Option<Authorization>,
    /// TLS, where the scheme is https.
    pub tls: ClientTls,
    /// Go where a redirect leads.
    pub follow_redirects: bool,
    /// Headers beside ours.
    pub headers: Vec<(String, String)>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            authorization: None,
            tls: ClientTls::default(),
            follow_redirects: true,
            headers: Vec::new(),
        }
    }
}

impl HttpConfig {
    /// Takes the fields of an HTTP client out of a larger mapping.
    pub(crate) fn read(fields: &mut Fields, folder: &Path) -> Result<HttpConfig, ConfigError> {
        let mut given = Vec::new();
        if let Some(basic) = fields.mapping("basic_auth")? {
            given.push(("basic_auth", read_basic(basic, folder)?));
        }
        if let Some(authorization) = fields.mapping("authorization")? {
            given.push(("authorization", read_authorization(authorization, folder)?));
        }
        let kind = || "Bearer".to_owned();
        if let Some(credentials) = fields.text("bearer_token")? {
            given.push((
                "bearer_token",
                Authorization::Inline {
                    kind: kind(),
                    credentials,
                },
            ));
        }
        if let Some(file) = fields.text("bearer_token_file")? {
            let path = folder.join(file);
            given.push(("bearer_token_file", Authorization::File { kind: kind(), path }));
        }
        if let [(first, _), (second, _), ..] = given.as_slice() {
            return Err(fields.error(second, format!("there is {first} already: write one of the two")));
        }
        fields.unsupported("oauth2", "use authorization with credentials_file")?;
        fields.unsupported("sigv4", "use authorization with credentials_file")?;
        for proxy in [
            "proxy_url",
            "no_proxy",
            "proxy_from_environment",
            "proxy_connect_header",
        ] {
            fields.unsupported(proxy, "servers are reached directly")?;
        }
        let mut headers = Vec::new();
        let given_headers = fields.mapping("http_headers")?.map(Fields::rest);
        for (name, path, node) in given_headers.unwrap_or_default() {
            let mut one = Fields::new(path, node)?;
            let values = [one.texts("values")?, one.texts("secrets")?].concat();
            one.unsupported("files", "write values or secrets")?;
            one.finish()?;
            headers.extend(values.into_iter().map(|value| (name.clone(), value)));
        }
        // HTTP/1.1 is what is spoken to every server: that another version may be used changes nothing.
        fields.flag("enable_http2")?;
        Ok(HttpConfig {
            authorization: given.pop().map(|(_, authorization)| authorization),
            tls: match fields.mapping("tls_config")? {
                None => ClientTls::default(),
                Some(tls) => read_tls(tls, folder)?,
            },
            follow_redirects: fields.flag("follow_redirects")?.unwrap_or(true),
            headers,
        })
    }
}

fn read_basic(mut fields: Fields, folder: &Path) -> Result<Authorization, ConfigError> {
    let user = match (fields.text("username")?, fields.text("username_file")?) {
        (Some(user), None) => user,
        (None, Some(file)) => std::fs::read_to_string(folder.join(&file))
            .map_err(|e| fields.error("username_file", format!("{file} cannot be read: {e}")))?
            .trim()
            .to_owned(),
        (None, None) => String::new(),
        (Some(_), Some(_)) => return Err(fields.error("username_file", "write username or username_file, not both")),
    };
    let made = match (fields.text("password")?, fields.text("password_file")?) {
        (Some(_), Some(_)) => return Err(fields.error("password_file", "write password or password_file, not both")),
        (_, Some(file)) => Authorization::BasicFile {
            user,
            path: folder.join(file),
        },
        (password, None) => Authorization::Basic {
            user,
            password: password.unwrap_or_default(),
        },
    };
    fields.finish()?;
    Ok(made)
}

fn read_authorization(mut fields: Fields, folder: &Path) -> Result<Authorization, ConfigError> {
    let kind = fields.text("type")?.unwrap_or_else(|| "Bearer".to_owned());
    if kind.eq_ignore_ascii_case("basic") {
        return Err(fields.error("type", "write basic_auth for a user name and a password"));
    }
    let made = match (fields.text("credentials")?, fields.text("credentials_file")?) {
        (Some(credentials), None) => Authorization::Inline { kind, credentials },
        (None, Some(file)) => Authorization::File {
            kind,
            path: folder.join(file),
        },
        _ => return Err(fields.error("credentials", "write either credentials or credentials_file")),
    };
    fields.finish()?;
    Ok(made)
}

fn read_tls(mut fields: Fields, folder: &Path) -> Result<ClientTls, ConfigError> {
    let mut pem = |inline: &'static str, file: &'static str| -> Result<Option<Pem>, ConfigError> {
        match (fields.text(inline)?, fields.text(file)?) {
            (Some(_), Some(_)) => Err(fields.error(file, format!("write {inline} or {file}, not both"))),
            (Some(text), None) => Ok(Some(Pem::Inline(text))),
            (None, Some(path)) => Ok(Some(Pem::File(folder.join(path)))),
            (None, None) => Ok(None),
        }
    };
    let (ca, cert, key) = (
        pem("ca", "ca_file")?,
        pem("cert", "cert_file")?,
        pem("key", "key_file")?,
    );
    if cert.is_some() != key.is_some() {
        return Err(fields.error("cert_file", "a certificate needs its key, and a key its certificate"));
    }
    let server_name = fields.text("server_name")?;
    let insecure_skip_verify = fields.flag("insecure_skip_verify")?.unwrap_or(false);
    // rustls speaks 1.2 and 1.3, whichever the server likes best.
    for bound in ["min_version", "max_version"] {
        if let Some(version) = fields.text(bound)?
            && !matches!(version.as_str(), "TLS12" | "TLS13")
        {
            return Err(fields.error(
                bound,
                format!("{version:?} is not supported; there are TLS12 and TLS13"),
            ));
        }
    }
    fields.finish()?;
    Ok(ClientTls {
        ca,
        cert,
        key,
        server_name,
        insecure_skip_verify,
    })
}
