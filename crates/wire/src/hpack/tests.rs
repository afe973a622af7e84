use super::*;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec()))).map(|()| fields)
}

fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

#[test]
fn requests_of_appendix_c3_and_c4() {
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let huffman = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    let expected = [
        fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]),
        fields(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ]),
        fields(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ]),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new(4096);
        for ((block, wanted), size) in blocks.iter().zip(&expected).zip([57, 110, 164]) {
            assert_eq!(decode(&mut decoder, &hex(block)).as_ref(), Ok(wanted));
            assert_eq!(decoder.table_size(), size);
        }
    }
}

#[test]
fn responses_of_appendix_c5_and_c6_evict() {
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let huffman = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let rest = [("cache-control", "private"), date, ("location", "https://www.example.com")];
    let expected = [
        fields(&[(":status", "302"), rest[0], rest[1], rest[2]]),
        fields(&[(":status", "307"), rest[0], rest[1], rest[2]]),
        fields(&[
            (":status", "200"),
            rest[0],
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            rest[2],
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ]),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new(4096);
        // The examples have a table of 256 octets: its update comes first.
        assert_eq!(decode(&mut decoder, &hex("3fe101")), Ok(Vec::new()));
        for ((block, wanted), size) in blocks.iter().zip(&expected).zip([222, 222, 215]) {
            assert_eq!(decode(&mut decoder, &hex(block)).as_ref(), Ok(wanted));
            assert_eq!(decoder.table_size(), size);
        }
    }
}

#[test]
fn literals_of_appendix_c2() {
    let mut decoder = Decoder::new(4096);
    for (block, name, value, size) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key", "custom-header", 55),
        ("040c2f73616d706c652f70617468", ":path", "/sample/path", 55),
        ("100870617373776f726406736563726574", "password", "secret", 55),
        ("82", ":method", "GET", 55),
    ] {
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(fields(&[(name, value)])));
        assert_eq!(decoder.table_size(), size);
    }
}

#[test]
fn broken_blocks_are_refused() {
    for block in [
        "80",               // index 0
        "be",               // a dynamic index into an empty table
        "ffffffffffffff7f", // an integer beyond its bound
        "ff80",             // ends within an integer
        "4001",             // ends within a string
        "41",               // no value
        "82 3fe101",        // a size update after a field
        "3fe21f",           // a size of 4,097
        "418100",           // Huffman padding that is not ones
    ] {
        assert!(decode(&mut Decoder::new(4096), &hex(block)).is_err(), "{block}");
    }
}

#[test]
fn what_repeats_is_indexed_and_what_does_not_never_is() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(4096);
    let mut sizes = Vec::new();
    for request in 0..200 {
        let id = format!("{request:032x}");
        let list = fields(&[
            (":method", "GET"),
            (":authority", "user-service.default.svc.cluster.local"),
            ("user-agent", "curl/8"),
            ("x-custom", "the same each time"),
            ("x-request-id", &id),
            ("authorization", "Bearer secret"),
        ]);
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in &list {
            encoder.field(name, value, &mut block);
        }
        assert_eq!(decode(&mut decoder, &block), Ok(list));
        sizes.push(block.len());
    }
    // Method, authority, agent and x-custom in one octet each; the id with its name, the secret with its value.
    assert!(sizes[10..].iter().all(|&size| size < 70), "{sizes:?}");
    assert!(decoder.table_size() < 300);
}

#[test]
fn a_smaller_table_is_announced_and_kept() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(4096);
    for (round, limit) in [4096, 100, 0, 4096, 64, 8192].into_iter().enumerate() {
        encoder.set_peer_limit(limit);
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            let value = format!("value {round}");
            encoder.field(b"x-name", value.as_bytes(), &mut block);
            assert_eq!(decode(&mut decoder, &block), Ok(fields(&[("x-name", &value)])));
            assert!(decoder.table_size() <= limit);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_fields_survive(
        lists in proptest::collection::vec(
            proptest::collection::vec(("[a-z:-]{1,12}", proptest::collection::vec(0u8..=255, 0..40)), 0..12),
            0..12,
        ),
        limits: Vec<u16>,
    ) {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::new(65_536);
        let mut limits = limits.into_iter();
        // Each list twice, so that fields are found in the table too.
        for list in lists.iter().flat_map(|list| [list, list]) {
            if let Some(limit) = limits.next() {
                encoder.set_peer_limit(usize::from(limit));
            }
            let wanted: Fields = list.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())).collect();
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in &wanted {
                encoder.field(name, value, &mut block);
            }
            proptest::prop_assert_eq!(decode(&mut decoder, &block), Ok(wanted));
        }
    }

    #[test]
    fn any_block_is_decoded_or_refused(block: Vec<u8>) {
        decoder::fuzz(&block);
        crate::frame::fuzz(&block);
    }
}
