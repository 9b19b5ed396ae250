package simulator

import "strings"

// personName is a name as it is written and as it goes into an address.
type personName struct{ written, ascii string }

// culture is where given and family names go together. Names stand as written=ascii; ascii alone where they are the same but for capitals.
type culture struct{ given, family []personName }

func names(list string) []personName {
	var all []personName
	for entry := range strings.SplitSeq(list, ",") {
		written, ascii, ok := strings.Cut(entry, "=")
		if !ok {
			ascii = strings.Map(func(c rune) rune {
				if c >= 'a' && c <= 'z' {
					return c
				}
				return -1
			}, strings.ToLower(written))
		}
		all = append(all, personName{written, ascii})
	}
	return all
}

// cultures are spread over the world as in a big college: names that are easy to get wrong are the reason for NameCoach.
var cultures = []culture{
	{names("Emma,Liam,Olivia,Noah,Charlotte,James,Siobhán=siobhan,Saoirse,Niamh,Caoimhe,Eoghan,Aoife"), names("Smith,O'Brien,O'Neill,Fitzgerald,MacDonald,St. John,Ó Súilleabháin=osuilleabhain,Ní Dhomhnaill=nidhomhnaill,Smith-Jones,Featherstonehaugh,Cholmondeley")},
	{names("José=jose,María=maria,Íñigo=inigo,Lucía=lucia,João=joao,Conceição=conceicao,Ximena,Zoë=zoe"), names("García=garcia,Muñoz=munoz,de la Cruz,Peña y Lillo=penaylillo,Gonçalves=goncalves,dos Santos,Ibáñez=ibanez")},
	{names("Nguyễn=nguyen,Thị=thi,Hương=huong,Đức=duc,Phượng=phuong,Ngọc=ngoc"), names("Trần=tran,Lê=le,Phạm=pham,Hoàng=hoang,Vũ=vu,Đặng=dang")},
	{names("Łukasz=lukasz,Małgorzata=malgorzata,Zdzisław=zdzislaw,Jiří=jiri,Žofie=zofie,Þorbjörg=thorbjorg,Søren=soren,Åsa=asa"), names("Szczęsny=szczesny,Dvořák=dvorak,Brzęczyszczykiewicz=brzeczyszczykiewicz,Guðmundsdóttir=gudmundsdottir,Ørsted=orsted,Çelik=celik,Şahin=sahin,Yıldız=yildiz")},
	{names("Иван=ivan,Светлана=svetlana,Дмитрий=dmitriy,Олександра=oleksandra,Αλέξανδρος=alexandros,Ελένη=eleni"), names("Петров=petrov,Шевченко=shevchenko,Щербакова=shcherbakova,Παπαδόπουλος=papadopoulos,Γεωργίου=georgiou")},
	{names("محمد=mohammed,فاطمة=fatima,Amina,Yusuf,خالد=khalid,שרה=sarah,יעקב=yaakov,ליאור=lior"), names("الحسن=alhassan,عبد الرحمن=abdulrahman,Yusuf,بن علي=benali,כהן=cohen,לוי=levi")},
	{names("伟=wei,芳=fang,秀英=xiuying,太郎=taro,さくら=sakura,陽子=yoko,민준=minjun,서연=seoyeon"), names("王=wang,欧阳=ouyang,司马=sima,佐藤=sato,渡邊=watanabe,김=kim,이=lee,남궁=namgung")},
	{names("अमित=amit,प्रिया=priya,Lakshmi,அருண்=arun,ศิริพร=siriporn,สมชาย=somchai,Thiruvenkatam"), names("शर्मा=sharma,Venkatanarasimharajuvaripeta,சுப்பிரமணியன்=subramanian,วงศ์สุวรรณ=wongsuwan,Ramanathan")},
	{names("Oluwaseun,Chukwuemeka,Nkechi,Adébáyò=adebayo,አበበ=abebe,ሰላም=selam,!Kung=kung,Thandiwe"), names("Okonkwo,Ọlátúnjí=olatunji,Nwachukwu,ገብረ=gebre,Xaba,Mthembu")},
	{names("Keoni,Kaʻiulani=kaiulani,Leilani,Tāne=tane,ᐊᓂᑕ=anita,ᓴᓂ=sani,Winona"), names("Kealiʻi=kealii,Kamakawiwoʻole=kamakawiwoole,Ngata,Running Deer,ᓄᓇᕗᑦ=nunavut,Whānau=whanau")},
}
