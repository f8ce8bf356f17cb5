use super::*;
use proptest::prelude::*;

fn check_request(text: &str) -> Result<(String, Framing, bool), Malformed> {
    let mut room = room();
    let End::At { skip, end } = find_end(text.as_bytes(), 0)? else {
        panic!("no end: {text:?}");
    };
    let request = request(&text.as_bytes()[skip..end], &mut room)?;
    let mut out = Vec::new();
    request.headers.render(&mut out);
    let target = format!("{} {} {}", request.method, request.target, request.host);
    Ok((
        format!("{target}|{}", String::from_utf8_lossy(&out)),
        request.framing,
        request.keep_alive,
    ))
}

fn check_response(text: &str) -> Result<(u16, Framing, String), Malformed> {
    let mut room = room();
    let End::At { skip, end } = find_end(text.as_bytes(), 0)? else {
        panic!("no end: {text:?}");
    };
    let response = response(&text.as_bytes()[skip..end], &mut room)?;
    let mut out = Vec::new();
    response.headers.render(&mut out);
    Ok((
        response.status,
        response.framing,
        String::from_utf8_lossy(&out).into_owned(),
    ))
}

#[test]
fn headers_pass_byte_for_byte_but_for_those_of_the_connection() {
    let text = "GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Mine, host\r\nx-MINE: 1\r\nX-Kept:  two  words \r\nKeep-Alive: 5\r\nTE: gzip\r\nB: \r\n\r\n";
    let (seen, framing, keep_alive) = check_request(text).unwrap();
    assert_eq!(seen, "GET /a?b h|Host: h\r\nX-Kept:  two  words \r\nB: \r\n");
    assert_eq!((framing, keep_alive), (Framing::Empty, true));
}

#[test]
fn what_the_proxy_counts_on_cannot_be_taken_away() {
    let text = "PUT / HTTP/1.1\r\nHost: h\r\nConnection: Expect, x-forwarded-proto\r\nExpect: 100-continue\r\nX-Forwarded-Proto: https\r\nContent-Length: 1\r\n\r\n";
    let (seen, ..) = check_request(text).unwrap();
    assert!(
        seen.contains("Expect: 100-continue\r\nX-Forwarded-Proto: https\r\n"),
        "{seen}"
    );
    let text = "HTTP/1.1 200 OK\r\nConnection: date\r\nDate: now\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(check_response(text).unwrap().2, "Date: now\r\nContent-Length: 1\r\n");
}

#[test]
fn targets() {
    for (line, expected) in [
        ("GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", Some("GET / a:80")),
        ("GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET /x?y b")),
        ("GET HTTPS://b:1 HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET / b:1")),
        ("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET ?q b")),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Some("OPTIONS * a")),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Some("GET / ")),
        ("GET / HTTP/1.0\r\n\r\n", Some("GET / ")),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Some("GET / [::1]:80")),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET / HTTP/1.1\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", None),
    ] {
        let seen = check_request(line)
            .ok()
            .map(|(seen, ..)| seen.split('|').next().unwrap().to_owned());
        assert_eq!(seen.as_deref(), expected, "{line:?}");
    }
}

#[test]
fn every_doubt_about_the_length_of_a_request_is_an_error() {
    let framing = |headers: &str| check_request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).map(|r| r.1);
    assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::Empty));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
    for bad in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 5\n",
        "A: b\r\n c\r\n",
        ": x\r\n",
        "A b: x\r\n",
        "A: \0\r\n",
        "A: b\rc\r\n",
    ] {
        assert!(framing(bad).is_err(), "{bad:?}");
    }
    assert_eq!(framing("Transfer-Encoding: gzip, chunked\r\n"), Err(Malformed::Coding));
    let old = check_request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(matches!(old, Err(Malformed::Framing(_))));
    assert_eq!(
        check_request("GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        Err(Malformed::Version)
    );
}

#[test]
fn ends_of_responses() {
    let framing = |text: &str| check_response(text).map(|r| r.1);
    assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::UntilClose));
    assert_eq!(
        framing("HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n"),
        Ok(Framing::Length(3))
    );
    assert_eq!(
        framing("HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n"),
        Ok(Framing::Empty)
    );
    assert_eq!(
        framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Ok(Framing::Chunked)
    );
    let no_content = check_response("HTTP/1.1 204 X\r\nContent-Length: 3\r\nA: b\r\n\r\n").unwrap();
    assert_eq!(no_content, (204, Framing::Empty, "A: b\r\n".to_owned()));
    for bad in [
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 2000 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(framing(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn sizes_are_bounded() {
    let many: String = (0..=HEADERS_MAX).map(|i| format!("a{i}: b\r\n")).collect();
    assert_eq!(
        check_request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        Err(Malformed::TooLarge)
    );
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(find_end(long.as_bytes(), 0), Err(Malformed::TooLarge));
    assert!(find_end(b"\r\n\r\n\r\n\r\n\r\n", 0).is_err());
    assert_eq!(find_end(b"\r\n\r", 0), Ok(End::Later));
    assert!(find_end(b"\x16\x03\x01", 0).is_err());
}

proptest! {
    #[test]
    fn an_end_is_found_in_whatever_pieces(cut in 0usize..60, cut2 in 0usize..60) {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nrest";
        let whole = find_end(text, 0);
        prop_assert_eq!(&whole, &Ok(End::At { skip: 2, end: text.len() - 4 }));
        let (a, b) = (cut.min(cut2).min(text.len()), cut.max(cut2).min(text.len()));
        for (searched, now) in [(0, a), (a, b), (b, text.len())] {
            match find_end(&text[..now], searched) {
                Ok(End::Later) => prop_assert!(now < text.len() - 4),
                other => { prop_assert_eq!(other, whole); return Ok(()); }
            }
        }
    }

    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = [b"GET / HTTP/1.1\r\n", bytes.as_slice(), b"\r\n\r\n"].concat();
        if let Ok(End::At { skip, end }) = find_end(&text, 0) {
            let mut out = Vec::new();
            if let Ok(request) = request(&text[skip..end], &mut room()) {
                request.headers.render(&mut out);
            }
            let _ = response(&text[skip..end], &mut room());
        }
    }
}
