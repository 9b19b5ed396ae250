package doctor

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"namebridge/internal/config"
	"namebridge/internal/httpapi"
	"namebridge/namecoach"
)

// nameCoach asks NameCoach one thing: who changed within the last minute.
func (e *examination) nameCoach(ctx context.Context, b config.Bridge) {
	if b.NameCoachURL == "" || b.NameCoachToken.Empty() { // an empty URL would stand for the client's own
		e.found(Warning, b.Name, NameCoach, "not asked, since its configuration is wrong", "mend what is named above, then run this again")
		return
	}
	w := newWitness()
	defer w.close()
	var remaining atomic.Int64
	remaining.Store(-1)
	client, err := namecoach.New(namecoach.Options{
		BaseURL: b.NameCoachURL, Token: b.NameCoachToken.Reveal(), RequestsPer15Minutes: b.NameCoachRequestsPer15Minutes, Patience: e.Patience / 2, Transport: w,
		Observe: func(o httpapi.Observation) { remaining.Store(int64(o.Remaining)) },
	})
	if err != nil {
		e.found(Problem, b.Name, NameCoach, err.Error(), "correct NAMECOACH_URL and NAMECOACH_TOKEN")
		return
	}
	bounded, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	watched, give := w.watch(bounded)
	defer give()
	begun := time.Now()
	err = ask(watched, client, e.Now())
	took := time.Since(begun)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if text, cure, ok := e.unanswered(w, err, "NAMECOACH_URL"); ok {
			e.found(Problem, b.Name, NameCoach, "NameCoach cannot be asked: "+text, cure)
		} else {
			text, cure := nameCoachSays(w.failedWith(err))
			e.found(Problem, b.Name, NameCoach, text, cure)
		}
	} else {
		text := "signed in, answered in " + length(took)
		left := remaining.Load()
		if left >= 0 {
			text += fmt.Sprintf(", %s left in this period", count(left, "request"))
		}
		if left >= 0 && left < 50 {
			e.found(Warning, b.Name, NameCoach, text, "see what else uses this token: at 0 everything waits for the next period (15 minutes)")
		} else {
			e.ok(b.Name, NameCoach, "%s", text)
		}
	}
	if offset, known := client.Clock(); known {
		e.clock(b.Name, "NameCoach's", offset,
			"Windows of update time follow NameCoach's clock, so nobody is missed; what is shown as lag is wrong by as much")
	}
}

func ask(ctx context.Context, client *namecoach.Client, now time.Time) error {
	answer, err := client.List(ctx, namecoach.Filter{UpdatedAfter: now.Add(-time.Minute), UpdatedBefore: now, Page: 1, PerPage: 1})
	if err != nil {
		return err
	}
	for _, err := range answer.Participants() {
		if err != nil {
			return err
		}
	}
	return nil
}

// nameCoachSays is what a status of NameCoach means.
func nameCoachSays(status int) (text, cure string) {
	const rightURL = "set NAMECOACH_URL to " + namecoach.DefaultBaseURL
	switch {
	case status == 401:
		return "NameCoach does not accept the token (401)",
			"set NAMECOACH_TOKEN to the access token of your NameCoach account, as it is, without Bearer; if it is that, ask NameCoach for a new one"
	case status == 403:
		return "NameCoach knows the token, but does not let it read participants (403)",
			"ask NameCoach to open the API v5 to this account, or to this machine's network"
	case status == 404:
		return "there is no such API at NAMECOACH_URL (404)", rightURL
	case status >= 300 && status < 400:
		return fmt.Sprintf("NAMECOACH_URL leads elsewhere (%d), and a token follows no redirect", status), rightURL
	case status == 200:
		return "what answers at NAMECOACH_URL is not NameCoach's API v5: it gives no list of participants (200)", rightURL
	case status >= 500:
		return fmt.Sprintf("NameCoach fails (%d)", status), "run this again in some minutes; if it stays, tell NameCoach"
	case status == 0:
		return "NameCoach's answer breaks off", "run this again; if it stays, look at the proxy or firewall on the way"
	}
	return fmt.Sprintf("NameCoach refuses a plain question for the last minute's participants (%d)", status), rightURL
}
