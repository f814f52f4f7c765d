//! The little of a DNS message that a relay has to look at: id, flags, question (RFC 1035 section 4.1). Pure.

const HEADER: usize = 12;
const FLAG_RESPONSE: u8 = 0x80;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;

/// Response codes.
pub(crate) mod rcode {
    pub(crate) const NO_ERROR: u8 = 0;
    pub(crate) const SERVER_FAILURE: u8 = 2;
    pub(crate) const REFUSED: u8 = 5;
}

/// A message that asks exactly one question, as every resolver's does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    bytes: &'a [u8],
    question_end: usize,
}

impl<'a> Query<'a> {
    /// The query in these bytes; nothing when they are something else.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let is_query = bytes.get(2)? & FLAG_RESPONSE == 0;
        let question_end = question_end(bytes)?;
        (is_query && count(bytes) == Some(1)).then_some(Self { bytes, question_end })
    }

    /// The query under another id, for the way upstream.
    pub(crate) fn with_id(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.to_vec(), id)
    }

    /// Its id.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// Whether these bytes are an answer to it that was sent under `id`.
    ///
    /// Names are compared without case, since some servers answer in another one. A server that could not read the
    /// question may leave it out of its error.
    pub(crate) fn is_answered_by(&self, reply: &[u8], id: u16) -> bool {
        let Some(&[high, low, flags, ..]) = reply.get(..HEADER) else {
            return false;
        };
        if u16::from_be_bytes([high, low]) != id || flags & FLAG_RESPONSE == 0 {
            return false;
        }
        if count(reply) == Some(0) {
            return rcode_of(reply) != rcode::NO_ERROR;
        }
        let question = question_end(reply).and_then(|end| reply.get(HEADER..end));
        question.is_some_and(|question| question.eq_ignore_ascii_case(self.question()))
    }

    /// An answer without records.
    pub(crate) fn refusal(&self, code: u8) -> Vec<u8> {
        self.empty_answer(0, code)
    }

    /// An answer that makes the client ask again over TCP.
    pub(crate) fn truncated_answer(&self) -> Vec<u8> {
        self.empty_answer(FLAG_TRUNCATED, rcode::NO_ERROR)
    }

    fn empty_answer(&self, flags: u8, code: u8) -> Vec<u8> {
        let mut answer = self.bytes[..self.question_end].to_vec();
        // The opcode and the wish for recursion are echoed.
        answer[2] = FLAG_RESPONSE | (answer[2] & (0x78 | FLAG_RECURSION_DESIRED)) | flags;
        answer[3] = FLAG_RECURSION_AVAILABLE | code;
        answer[6..HEADER].fill(0);
        answer
    }

    fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.question_end]
    }
}

/// The message under another id.
pub(crate) fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// The response code of a message that has a header.
pub(crate) fn rcode_of(reply: &[u8]) -> u8 {
    reply.get(3).map_or(rcode::SERVER_FAILURE, |flags| flags & 0x0f)
}

fn count(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]))
}

/// Where the first question ends: its labels, then type and class.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => break,
            // A first question has nothing before it that a compression pointer could point to.
            length if length > 63 => return None,
            length => at += 1 + length,
        }
    }
    let end = at + 5;
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A query of type A for `name` with an EDNS record behind the question.
    pub(crate) fn mk_query(id: u16, name: &str) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend([FLAG_RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// An answer to a query, with `code` and one byte that stands for the records.
    pub(crate) fn mk_reply(query: &[u8], code: u8) -> Vec<u8> {
        let mut reply = query.to_vec();
        reply[2] |= FLAG_RESPONSE;
        reply[3] = code;
        reply.push(7);
        reply
    }

    #[test]
    fn a_query_is_recognised_and_answers_and_garbage_are_not() {
        let query = mk_query(1, "web.demo");
        assert!(Query::parse(&query).is_some());
        assert!(Query::parse(&mk_reply(&query, 0)).is_none());
        for length in 0..query.len() - 11 {
            assert!(Query::parse(&query[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn an_answer_is_accepted_only_with_the_id_and_question_asked() {
        let bytes = mk_query(1, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        assert!(query.is_answered_by(&mk_reply(&query.with_id(9), 0), 9));
        assert!(query.is_answered_by(&mk_reply(&mk_query(9, "WEB.demo"), 0), 9));
        assert!(!query.is_answered_by(&mk_reply(&query.with_id(8), 0), 9));
        assert!(!query.is_answered_by(&mk_reply(&mk_query(9, "evil.demo"), 0), 9));
        assert!(!query.is_answered_by(&query.with_id(9), 9));
        assert!(!query.is_answered_by(&[0, 9], 9));
    }

    #[test]
    fn an_error_without_question_is_an_answer_and_a_success_is_not() {
        let bytes = mk_query(1, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        let bare = |code| [0, 9, FLAG_RESPONSE, code, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(query.is_answered_by(&bare(1), 9));
        assert!(!query.is_answered_by(&bare(0), 9));
    }

    #[test]
    fn own_answers_keep_id_and_question_and_drop_the_rest() {
        let bytes = mk_query(0x1234, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        let answer = query.refusal(rcode::SERVER_FAILURE);
        assert!(query.is_answered_by(&answer, 0x1234));
        assert_eq!(rcode_of(&answer), rcode::SERVER_FAILURE);
        assert_eq!(answer[6..12], [0; 6]);
        assert_eq!(answer.len(), bytes.len() - 11);
        assert_eq!(query.truncated_answer()[2] & FLAG_TRUNCATED, FLAG_TRUNCATED);
    }
}
