//! The whole command against a server that answers one request.

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::{Command, KubectlTraffic};

/// The command's picture, and the head of the request that it made.
async fn ask(arguments: &[&str], status: &str, answer: &str) -> (Result<String, Error>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prefix", listener.local_addr().unwrap());
    let words = ["kubectl-traffic", "query", "--url", &url]
        .into_iter()
        .chain(arguments.iter().copied());
    let Command::Query(query) = KubectlTraffic::try_parse_from(words).unwrap().command else {
        panic!("another command");
    };
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(response.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let asking = async {
        let store = query.store.open().await?;
        query.picture(&store).await
    };
    tokio::join!(asking, serving)
}

const MATRIX: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[
    {"metric":{"pod":"a"},"values":[[0,"1"],[60,"2"],[120,"4"]]}]}}"#;

#[tokio::test]
async fn a_range_is_a_chart_and_anything_else_on_request() {
    let range = [
        "sum(up)",
        "--range",
        "2m",
        "--step",
        "5s",
        "--time",
        "1970-01-01T00:02:00Z",
    ];
    let (chart, head) = ask(&range, "200 OK", MATRIX).await;
    let path = "GET /prefix/api/v1/query_range?query=sum%28up%29&start=0.000&end=120.000&step=5 HTTP/1.1\r\n";
    assert!(head.starts_with(path), "{head}");
    let chart = chart.unwrap();
    assert!(chart.contains('┤') && chart.contains("{pod=\"a\"} 4"), "{chart}");
    let with = |form: &'static str| range.into_iter().chain(["-o", form]).collect::<Vec<_>>();
    let (table, _) = ask(&with("table"), "200 OK", MATRIX).await;
    assert!(table.unwrap().contains("{pod=\"a\"}       1     1     4      4"));
    let (csv, _) = ask(&with("csv"), "200 OK", MATRIX).await;
    assert!(csv.unwrap().ends_with("1970-01-01T00:02:00Z,a,4\n"));
    let (json, _) = ask(&with("json"), "200 OK", MATRIX).await;
    assert!(json.unwrap().contains("\"resultType\": \"matrix\""));
}

#[tokio::test]
async fn errors_are_those_of_the_store() {
    let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error: x"}"#;
    let (answer, head) = ask(&["up{"], "400 Bad Request", refused).await;
    assert!(head.starts_with("GET /prefix/api/v1/query?query=up%7B&time="), "{head}");
    assert_eq!(answer.unwrap_err().to_string(), "parse error: x");
    let (answer, _) = ask(&["up"], "502 Bad Gateway", "<html>").await;
    assert!(answer.unwrap_err().to_string().contains("502"));
    let chart = ["up", "-o", "chart"];
    let (answer, _) = ask(
        &chart,
        "200 OK",
        r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
    )
    .await;
    assert!(answer.unwrap_err().to_string().contains("--range"));
    let parsed = KubectlTraffic::try_parse_from(["kubectl-traffic", "query", "up", "--range", "soon"]);
    assert!(parsed.unwrap_err().to_string().contains("write a duration such as"));
}
