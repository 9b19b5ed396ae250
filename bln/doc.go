// Package bln is a client for the part of the Bluedrop Learning Networks API v1 that a bridge needs: sign in, read the
// members of one organization, and change what stands in a member's otherInfo.
//
// [Client] speaks HTTP. [OtherInfo] is the other half: one member's otherInfo, kept byte for byte as the server wrote it, so
// that what is not ours goes back as it came.
//
// "BLN n" in a comment is a line of the API's documentation.
package bln
