//! The syntax of names, labels and annotation keys; errors say what would be right.

/// A DNS-1123 label: a namespace's name and the like.
pub fn check_dns_label(name: &str) -> Result<(), String> {
    let ok = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !ok {
        return Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    at_most(name, 63)
}

/// A DNS-1035 label: a Service's name.
pub fn check_dns_1035(name: &str) -> Result<(), String> {
    if check_dns_label(name).is_err() || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    Ok(())
}

/// A DNS-1123 subdomain: most objects' names.
pub fn check_dns_subdomain(name: &str) -> Result<(), String> {
    let part = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !p.starts_with('-')
            && !p.ends_with('-')
    };
    if !name.split('.').all(part) {
        return Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    at_most(name, 253)
}

/// A name that only has to fit into a URL path (RBAC objects).
pub fn check_path_segment(name: &str) -> Result<(), String> {
    if name == "." || name == ".." {
        return Err(format!("may not be '{name}'"));
    }
    for bad in ['/', '%'] {
        if name.contains(bad) {
            return Err(format!("may not contain '{bad}'"));
        }
    }
    Ok(())
}

fn at_most(text: &str, max: usize) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("must be no more than {max} bytes"));
    }
    Ok(())
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label or annotation key: `[prefix/]name`.
pub fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if prefix.is_empty() {
                return Err("prefix part must be non-empty".to_owned());
            }
            check_dns_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    at_most(name, 63).map_err(|e| format!("name part {e}"))?;
    if !is_qualified(name) {
        return Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')".to_owned());
    }
    Ok(())
}

/// A label's value.
pub fn check_value(value: &str) -> Result<(), String> {
    at_most(value, 63)?;
    if !value.is_empty() && !is_qualified(value) {
        return Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_syntax() {
        for ok in ["traffic.port.9080", "app", "a/b", "example.com/A_b.c-d"] {
            assert!(check_key(ok).is_ok(), "{ok}");
        }
        for bad in ["", "/a", "a/", "-a", "a b", "A.com/b", "a/b/c"] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        for ok in ["", "http", "0.5", "A-b_c"] {
            assert!(check_value(ok).is_ok(), "{ok}");
        }
        for bad in ["a b", "-a", "a-", "a/b", &"x".repeat(64)] {
            assert!(check_value(bad).is_err(), "{bad}");
        }
        assert!(check_dns_subdomain("a.b-c.d1").is_ok());
        assert!(check_dns_subdomain("a..b").is_err() && check_dns_label("a.b").is_err());
        assert!(check_dns_1035("1a").is_err() && check_dns_1035("a1").is_ok());
    }
}
