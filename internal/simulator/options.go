package simulator

import "time"

// PutSemantics says what PUT …/users/{id} does to the otherInfo that is stored. The document does not say (BLN 7223).
type PutSemantics int

const (
	Replace      PutSemantics = iota // the body's otherInfo takes the place of the stored one
	ShallowMerge                     // the body's top-level keys take the place of the stored ones
	DeepMerge                        // objects are merged member by member, everything else takes the stored one's place
)

// PutAnswer says what a PUT answers.
type PutAnswer int

const (
	Full         PutAnswer = iota // the user as GET shows it (BLN 7500)
	Short                         // the user without otherInfo
	StaleListRow                  // the user as a list row shows it, with a part of otherInfo (BLN 7734)
)

// ListRows says how much of otherInfo a row of the users list carries.
type ListRows int

const (
	Complete ListRows = iota // all of it
	Partial                  // the six keys of BLN 7734: a fragment never shows
)

// Roles of the account that signs in.
const (
	RoleAdmin        = "admin"        // may do everything
	RoleAuditor      = "auditor"      // may list and read (BLN 7223, 7612); PUT is 403
	RoleNetworkAdmin = "networkAdmin" // may list only with the networks or search filter (BLN 7612); PUT is 403
	RoleMember       = "member"       // may read itself; list is 403
)

// RetryAfter says what form of Retry-After a 429 carries, if any. NameCoach's pages do not mention the header.
type RetryAfter int

const (
	NoRetryAfter RetryAfter = iota
	RetryAfterSeconds
	RetryAfterDate
)

// Faults are shares of requests, from 0 to 1, that go wrong. They are drawn from the seed, one draw a request.
type Faults struct {
	P5xx                float64 // 500, 502 (an HTML page), 503 or 504; half of the PUTs so answered have been applied
	P429                float64 // 429, whatever the limits say
	PReset              float64 // the connection is reset before any answer
	PTruncate           float64 // the body ends too early: half of them in a broken connection, half in a clean end
	PSlow               float64 // the body pauses for Slow in its middle
	PAppliedThenTimeout float64 // of PUTs only: applied, then no answer for Hang, then a reset

	Slow time.Duration // 0 = 100 ms
	Hang time.Duration // 0 = reset at once
}

// Tamper makes the server spoil one foreign key of otherInfo while it carries out a PUT. The zero value never does. A key that is
// null says as much as none, so it is not the one that is dropped.
type Tamper struct {
	At    int    // the At-th PUT carried out; where that user has no such key, the next that has
	Every int    // every Every-th PUT carried out, where that user has such a key
	Key   string // the key to spoil; "" = the user's first foreign one
}

// Options are the size of the world and everything the two documents leave open. The zero value is an empty world served in
// the most obliging way; each field makes it less so.
type Options struct {
	Seed  uint64 // the same seed gives the same world
	Users int    // people generated on the BLN side; 0 = an empty world, to be filled by AddUser and AddParticipant

	NameCoachAddr, BLNAddr string // addresses to listen on; "" = 127.0.0.1:0
	Now                    func() time.Time
	ClockOffset            time.Duration // of both servers: their Date headers and every time they set. Advance makes it more
	BLNClockOffset         time.Duration // of BLN, on top of that
	FragmentKey            string        // key under which the fragment is expected; "" = "namecoach"
	OwnKeys                []string      // top-level keys of otherInfo that are the bridge's; nil = FragmentKey and the flat layout's five

	// BLN
	Put             PutSemantics
	PutAnswer       PutAnswer
	DropNulls       bool // the server forgets members that are null
	ReorderKeys     bool // the server keeps otherInfo with its keys sorted
	ListRows        ListRows
	LinkHeader      bool // the users list has the link header of BLN 10130
	IncludeInvited  bool // invited users are listed by default; the document says they are not (BLN 7635)
	ShortPages      bool // a page is shorter than limit though more follow
	AfterIgnored    bool // the cursor is ignored: the first page for ever
	HiddenFractions bool // rows are kept in order of fractions of a second that `created` does not show
	OpaqueTokens    bool // hex tokens (BLN 93) rather than JWT with exp and nbf in ms
	TokenLife       time.Duration
	Role            string // of the account that signs in; "" = RoleAdmin
	NotFoundUsers   map[int64]bool
	BLNLatency      time.Duration
	BLNPerSecond    float64 // requests answered in a second; above it 429. 0 = no limit

	DropForeignKeyOnPut   Tamper
	ChangeForeignKeyOnPut Tamper

	// NameCoach
	PagingIgnored             bool // `page` and `per_page` are ignored where filters are present (NC 47)
	MaxPerPage                int  // 0 = 2000
	TruncateRows              int  // no answer has more rows than this, whatever total_count says; 0 = no such cap
	OrderByID                 bool // rows in order of their making rather than newest change first
	NoWrapper                 bool // no `Response` around list answers
	NoMeta                    bool
	MetaStrings               bool          // meta's numbers are strings
	ExclusiveBounds           bool          // updated_after and updated_before leave out the moment that they name
	LateVisible               time.Duration // how long a change of a row stays unseen after its update time
	LateVisibleUpTo           time.Duration // and a while more, drawn from the seed for each change: rows show in another order than they were updated in
	RecordingURLKey           bool          // recording_url (NC 14) instead of recording_link (NC 99)
	CustomObjects             bool          // custom attributes nested in custom_objects (NC 26) instead of flat
	RotateDigests             bool          // the query of a recording's address differs at every read
	EmailCaseSensitiveSearch  bool
	SearchUnfilteredWhenEmpty bool // an empty email_list returns everybody
	ListsIntersect            bool // email_list and institution_id_list together mean and, not or
	NameCoachLatency          time.Duration
	NameCoachPer15Minutes     int           // requests in NameCoachPeriod, then one a second, then 429. 0 = no limit
	NameCoachPeriod           time.Duration // 0 = 15 min

	// Both
	Gzip       bool // answers are compressed for those who accept it
	RetryAfter RetryAfter
	Faults     Faults

	// OnNameCoachPage is called before each page of the NameCoach list or search is put together, with its number, so that a
	// test can change the world between two pages.
	OnNameCoachPage func(s *Simulator, page int)
	// OnRequest is called before each request is looked at, with its name (see Counts) and how many of that name there have been.
	OnRequest func(s *Simulator, endpoint string, n int)
}

func (o *Options) setDefaults() {
	if o.NameCoachAddr == "" {
		o.NameCoachAddr = "127.0.0.1:0"
	}
	if o.BLNAddr == "" {
		o.BLNAddr = "127.0.0.1:0"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FragmentKey == "" {
		o.FragmentKey = "namecoach"
	}
	if o.TokenLife == 0 {
		o.TokenLife = 7 * 24 * time.Hour
	}
	if o.Role == "" {
		o.Role = RoleAdmin
	}
	if o.MaxPerPage == 0 {
		o.MaxPerPage = 2000
	}
	if o.NameCoachPeriod == 0 {
		o.NameCoachPeriod = 15 * time.Minute
	}
	if o.Faults.Slow == 0 {
		o.Faults.Slow = 100 * time.Millisecond
	}
}

// nameCoachNow is the time on NameCoach's clock.
func (o *Options) nameCoachNow() time.Time { return o.Now().Add(o.ClockOffset).UTC() }

// blnNow is the time on BLN's clock.
func (o *Options) blnNow() time.Time { return o.nameCoachNow().Add(o.BLNClockOffset) }

func (o *Options) own() []string {
	if o.OwnKeys != nil {
		return o.OwnKeys
	}
	return ownKeys(o.FragmentKey)
}

// ownKeys are the keys of the nested and of the flat layout (design of the fragment: five keys).
func ownKeys(key string) []string {
	return []string{key, key + "_name_badge_link", key + "_recording_link", key + "_recording_id", key + "_recording_date", key + "_event_title"}
}
