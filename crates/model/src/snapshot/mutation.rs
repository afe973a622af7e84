//! Changes to header sections, in Envoy's order.

/// Removals come first, then additions in their order (Envoy `HeaderParser`). For requests the weighted cluster's
/// mutations act first, then the route's, the virtual host's, the route table's.
#[derive(Clone, Debug, PartialEq, Default, Hash)]
pub struct HeaderMutations {
    /// Lower case.
    pub remove: Box<[Box<str>]>,
    pub add: Box<[HeaderAddition]>,
}

impl HeaderMutations {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct HeaderAddition {
    /// Lower case; `host` and `:authority` both stand here as `:authority`.
    pub name: Box<str>,
    pub value: HeaderValue,
    pub action: AppendAction,
    /// A value that turns out empty is still added.
    pub keep_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum AppendAction {
    /// One more header of that name.
    #[default]
    Append,
    AddIfAbsent,
    /// Instead of those that are there.
    Overwrite,
    OverwriteIfPresent,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub enum HeaderValue {
    Literal(Box<[u8]>),
    /// Pieces that are joined; one without a value is left out.
    Format(Box<[FormatPiece]>),
}

/// The format commands that act in header values. Others are refused when the snapshot is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FormatPiece {
    Text(Box<[u8]>),
    /// `%REQ(name?alternative)%`: the first of the two that is there, at most so many bytes of it.
    RequestHeader {
        name: Box<str>,
        alternative: Option<Box<str>>,
        bytes_max: Option<usize>,
    },
    /// `%RESP(name)%`
    ResponseHeader {
        name: Box<str>,
    },
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`
    DownstreamAddress,
    /// `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`
    DownstreamIp,
    /// `%UPSTREAM_HOST%`
    UpstreamAddress,
    /// `%UPSTREAM_CLUSTER%`
    UpstreamCluster,
    /// `%PROTOCOL%`
    Protocol,
    /// `%RESPONSE_CODE%`
    ResponseCode,
    /// `%RESPONSE_FLAGS%`
    ResponseFlags,
    /// `%START_TIME%`: RFC 3339 with milliseconds.
    StartTime,
    /// `%HOSTNAME%`
    Hostname,
}

impl HeaderValue {
    /// Reads Envoy's substitution format.
    ///
    /// # Errors
    /// The command that does not act here, or text after a `%` that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains('%') {
            return Ok(Self::Literal(text.as_bytes().into()));
        }
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, after) = rest.split_at(at);
            literal.extend_from_slice(before.as_bytes());
            let after = after.get(1..).unwrap_or_default();
            let Some(end) = after.find('%') else {
                return Err(format!("`%` without its end in `{text}`; write `%%` for a percent sign"));
            };
            let (command, tail) = after.split_at(end);
            if command.is_empty() {
                literal.push(b'%');
            } else {
                if !literal.is_empty() {
                    pieces.push(FormatPiece::Text(std::mem::take(&mut literal).into()));
                }
                pieces.push(piece(command)?);
            }
            rest = tail.get(1..).unwrap_or_default();
        }
        literal.extend_from_slice(rest.as_bytes());
        if pieces.is_empty() {
            return Ok(Self::Literal(literal.into()));
        }
        if !literal.is_empty() {
            pieces.push(FormatPiece::Text(literal.into()));
        }
        Ok(Self::Format(pieces.into()))
    }
}

fn piece(command: &str) -> Result<FormatPiece, String> {
    let unknown = || format!("format command `%{command}%` is not supported");
    Ok(match command {
        "DOWNSTREAM_REMOTE_ADDRESS" => FormatPiece::DownstreamAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => FormatPiece::DownstreamIp,
        "UPSTREAM_HOST" => FormatPiece::UpstreamAddress,
        "UPSTREAM_CLUSTER" => FormatPiece::UpstreamCluster,
        "PROTOCOL" => FormatPiece::Protocol,
        "RESPONSE_CODE" => FormatPiece::ResponseCode,
        "RESPONSE_FLAGS" => FormatPiece::ResponseFlags,
        "START_TIME" => FormatPiece::StartTime,
        "HOSTNAME" => FormatPiece::Hostname,
        _ => {
            let (name, argument) = command.split_once('(').ok_or_else(unknown)?;
            let (argument, limit) = argument.rsplit_once(')').ok_or_else(unknown)?;
            let bytes_max = match limit.strip_prefix(':') {
                Some(number) => Some(number.parse().map_err(|_| unknown())?),
                None if limit.is_empty() => None,
                None => return Err(unknown()),
            };
            let (first, alternative) = match argument.split_once('?') {
                Some((first, second)) => (first, Some(second.to_ascii_lowercase().into())),
                None => (argument, None),
            };
            let first: Box<str> = first.to_ascii_lowercase().into();
            match name {
                "REQ" => FormatPiece::RequestHeader { name: first, alternative, bytes_max },
                "RESP" if alternative.is_none() && bytes_max.is_none() => FormatPiece::ResponseHeader { name: first },
                _ => return Err(unknown()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_split_and_unknown_commands_are_named() {
        assert_eq!(HeaderValue::parse("100%%"), Ok(HeaderValue::Literal(b"100%"[..].into())));
        let value = HeaderValue::parse("a-%REQ(X-Id?:path):8%").expect("known");
        let HeaderValue::Format(pieces) = value else { panic!("a format") };
        assert_eq!(pieces[0], FormatPiece::Text(b"a-"[..].into()));
        assert_eq!(
            pieces[1],
            FormatPiece::RequestHeader { name: "x-id".into(), alternative: Some(":path".into()), bytes_max: Some(8) }
        );
        assert!(HeaderValue::parse("%NOPE%").expect_err("unknown").contains("%NOPE%"));
        assert!(HeaderValue::parse("5%").is_err());
    }
}
