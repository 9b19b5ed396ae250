package doctor_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/config"
	"namebridge/internal/doctor"
	"namebridge/internal/simulator"
)

type env = config.Environment

// meant are the strangers of an environment, each with the variable that was probably meant.
func meant(e env) env {
	all := env{}
	for _, s := range doctor.Strangers(e) {
		all[s.Name] = s.Meant
	}
	return all
}

func TestAMisspeltVariableIsNamedWithTheOneThatWasMeant(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ set, want env }{
		"nothing wrong":           {env{"NAMECOACH_EVENTS": "A", "BLN_PASSWORD_FILE": "/x", "BLN_URL": "x"}, env{}},
		"a letter too few":        {env{"NAMECOACH_TOKN": "x"}, env{"NAMECOACH_TOKN": "NAMECOACH_TOKEN"}},
		"a letter too many":       {env{"OTHER_INFO_KEYS": "x"}, env{"OTHER_INFO_KEYS": "OTHER_INFO_KEY"}},
		"a vowel":                 {env{"WINDOW_LOOKBCK": "x"}, env{"WINDOW_LOOKBCK": "WINDOW_LOOKBACK"}},
		"in the first word":       {env{"NAMECOCH_TOKEN": "x", "WINDOWS_SETTLE": "x"}, env{"NAMECOCH_TOKEN": "NAMECOACH_TOKEN", "WINDOWS_SETTLE": "WINDOW_SETTLE"}},
		"two letters swapped":     {env{"LOG_LVEEL": "x", "DATABASE_ULR": "x"}, env{"LOG_LVEEL": "LOG_LEVEL", "DATABASE_ULR": "DATABASE_URL"}},
		"small letters":           {env{"bln_username": "x"}, env{"bln_username": "BLN_USERNAME"}},
		"a file":                  {env{"NAMECOACH_TOKEN_FIEL": "x"}, env{"NAMECOACH_TOKEN_FIEL": "NAMECOACH_TOKEN_FILE"}},
		"a file for what is none": {env{"BLN_USERNAME_FILE": "x"}, env{"BLN_USERNAME_FILE": "BLN_USERNAME"}},
		"a word of our own near nothing": {
			env{"COLLECT_INTERVAL": "5m", "NAMECOACH_PROXY_SETTINGS": "x"}, env{"COLLECT_INTERVAL": "", "NAMECOACH_PROXY_SETTINGS": ""},
		},
		"one of a bridge": {
			env{"BRIDGES": "acme,globex-2", "ACME_NAMECOACH_TOKN": "x", "GLOBEX_2_SWEEP_TIME": "x", "ACEM_BLN_URL": "x", "ACME_BLN_URL_": "x"},
			env{"ACME_NAMECOACH_TOKN": "ACME_NAMECOACH_TOKEN", "GLOBEX_2_SWEEP_TIME": "", "ACEM_BLN_URL": "ACME_BLN_URL", "ACME_BLN_URL_": "ACME_BLN_URL"},
		},
		"shared by bridges":     {env{"BRIDGES": "acme", "NAMECOACH_TOKN": "x", "ACME_BLN_URL": "x", "BLN_URL": "x"}, env{"NAMECOACH_TOKN": "NAMECOACH_TOKEN"}},
		"set to nothing":        {env{"NAMECOACH_TOKN": " "}, env{}},
		"no variable's name":    {env{"BLN_\x1b[31m": "x", "BLN-URL": "x"}, env{}},
		"a wrong bridge's name": {env{"BRIDGES": "Acme", "NAMECOACH_TOKN": "x"}, env{"NAMECOACH_TOKN": "NAMECOACH_TOKEN"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, meant(test.set)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnyLetterThatIsLeftOutOfAnyVariableIsNoticed(t *testing.T) {
	t.Parallel()
	for _, v := range config.Variables {
		for i := range v.Name {
			slip := v.Name[:i] + v.Name[i+1:]
			if got, ok := meant(env{slip: "x"})[slip]; !ok || got != v.Name {
				t.Errorf("%s is taken for %q, %v; want %s", slip, got, ok, v.Name)
			}
		}
	}
}

func TestNobodyElsesVariableIsTakenForOurs(t *testing.T) {
	t.Parallel()
	others := env{}
	for name := range strings.FieldsSeq(`PATH HOME USER LANG LC_ALL PWD SHELL TERM TZ HOSTNAME NO_COLOR XDG_DATA_HOME NAMEBRIDGE_POSTGRES_BIN GOFLAGS CI DEBUG
		HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE LOG_FILE LOG_DIR LOG_PATH PORT HOST ADMIN_EMAIL ADMIN_PASSWORD LISTEN_FDS LISTEN_PID LISTEN_FDNAMES
		JOURNAL_STREAM INVOCATION_ID NOTIFY_SOCKET CREDENTIALS_DIRECTORY WINDOWID WINDOWPATH DATABASE_HOST DATABASE_NAME DATABASE_USER DATABASE_PASSWORD
		PGHOST PGPASSWORD POSTGRES_PASSWORD BASE_URL BLOG_URL CDN_URL API_URL DB_URL OTHER MATCH LINK
		KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT_HTTPS KUBERNETES_PORT_443_TCP_ADDR
		NAMEBRIDGE_SERVICE_HOST NAMEBRIDGE_SERVICE_PORT NAMEBRIDGE_PORT NAMEBRIDGE_PORT_8080_TCP BLN_SERVICE_HOST BLN_SERVICE_PORT BLN_SERVICE_PORT_HTTP BLN_PORT
		BLN_PORT_443_TCP BLN_PORT_443_TCP_PROTO BLN_PORT_443_TCP_PORT BLN_PORT_443_TCP_ADDR NAMECOACH_PROXY_SERVICE_HOST NAMECOACH_PROXY_PORT_53_UDP_ADDR
		COLLECT_SERVICE_HOST GUARD_PORT ACME_BLN_SERVICE_HOST ACME_LOG_FILE ACME_HOME`) {
		others[name] = "x"
	}
	for _, bridges := range []string{"", "acme"} {
		e := maps.Clone(others)
		e["BRIDGES"] = bridges
		if got := doctor.Strangers(e); len(got) > 0 {
			t.Errorf("BRIDGES=%s: %v", bridges, got)
		}
	}
}

// Whoever has set DATABASE_URL has another program's DATABASE_URI beside it rather than a slip.
func TestWhatIsSetWasNotMisspelt(t *testing.T) {
	t.Parallel()
	if got := meant(env{"DATABASE_URI": "x"}); got["DATABASE_URI"] != "DATABASE_URL" {
		t.Errorf("got %v", got)
	}
	for _, name := range []string{"DATABASE_URL", "DATABASE_URL_FILE"} {
		if got := doctor.Strangers(env{"DATABASE_URI": "x", name: "x"}); len(got) > 0 {
			t.Errorf("with %s: %v", name, got)
		}
	}
	if got := meant(env{"NAMECOACH_TOKENS": "x", "NAMECOACH_TOKEN": "x"}); len(got) != 1 {
		t.Errorf("a name that begins like no other program's: %v", got)
	}
}

func TestAStrangerIsToldInOrderAndWithoutItsValue(t *testing.T) {
	t.Parallel()
	all := doctor.Strangers(env{"NAMECOACH_TOKN": "hush", "BLN_PASWORD": "hush", "SWEEP_WHEN": "hush"})
	var text string
	for _, s := range all {
		text += s.Name + " " + s.Text() + "\n"
	}
	const want = `BLN_PASWORD is no variable of namebridge and changes nothing; did you mean BLN_PASSWORD?
NAMECOACH_TOKN is no variable of namebridge and changes nothing; did you mean NAMECOACH_TOKEN?
SWEEP_WHEN is no variable of namebridge and changes nothing; all there are: namebridge config --help
`
	if text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

func TestDoctorWarnsOfVariablesThatNobodyReads(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.o.Strangers = doctor.Strangers(env{"NAMECOACH_TOKN": "hunter2", "SWEEP_WHEN": "hunter2"})
	var told []string
	for _, f := range p.look(t, t.Context()) {
		if f.Check == doctor.Configuration {
			told = append(told, string(f.Status)+" "+f.Text+" → "+f.Cure)
		}
	}
	want := []string{
		"warning NAMECOACH_TOKN is no variable of namebridge and changes nothing → set NAMECOACH_TOKEN if that was meant; if it is another program's, all is well",
		"warning SWEEP_WHEN is no variable of namebridge and changes nothing → namebridge config --help names all there are; if it is another program's, all is well",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
